// The official SDK for Node.
import OpenAI from "openai";
import { BASE_URL, CITIES, EMBEDDING, KEY, LLM, MESSAGES, TEXTS, UNKNOWN, failure, run } from "./cases.mjs";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: KEY, maxRetries: 0, timeout: 120_000 });
const ask = (more) => client.chat.completions.create({ model: LLM, messages: MESSAGES, max_tokens: 20, ...more });

const parameters = { type: "object", properties: { city: { type: "string", enum: CITIES } }, required: ["city"], additionalProperties: false };
const tool = { type: "function", function: { name: "get_weather", parameters, strict: true } };

await run({
  chat: async () => (await ask()).choices[0].message.content,
  stream: async () => {
    const pieces = [];
    for await (const chunk of await ask({ stream: true })) pieces.push(chunk.choices[0]?.delta?.content ?? "");
    return pieces;
  },
  tools: async () => {
    const choice = { type: "function", function: { name: "get_weather" } };
    const answer = await ask({ tools: [tool], tool_choice: choice, max_tokens: 300, frequency_penalty: 2 });
    const call = answer.choices[0].message.tool_calls[0].function;
    return { name: call.name, arguments: JSON.parse(call.arguments) };
  },
  // Base64 by default, decoded by the SDK.
  embeddings: async () => (await client.embeddings.create({ model: EMBEDDING, input: TEXTS })).data.map((one) => one.embedding),
  error: () => failure(() => ask({ model: UNKNOWN })),
});
