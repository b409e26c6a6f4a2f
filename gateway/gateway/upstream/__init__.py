"""What is between the gateway and the services behind it: connections, load balancing, retries, queues, load shedding.
Not in here: what a client is sent (`gateway.relay`), and what is known without asking a service (`gateway.answers`)."""
