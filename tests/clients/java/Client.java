import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.List;
import java.util.stream.Collectors;

/**
 * The JDK's own HTTP client, with its defaults: over plain TCP it offers an upgrade to HTTP/2 with each request.
 *
 * <p>Prints a line for each case: its name, the version that was spoken, the status, and the answer's lines joined by
 * tabs. Standard library only; run as a single file.
 */
public class Client {
    private static final String URL = System.getenv("ONECARD_URL");
    private static final String LLM = System.getenv("ONECARD_LLM");
    private static final HttpClient CLIENT = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).build();

    public static void main(String[] arguments) throws IOException, InterruptedException {
        String messages = "\"model\":\"%s\",\"max_tokens\":20,\"messages\":[{\"role\":\"user\",\"content\":\"안녕하세요\"}]";
        String chat = "{" + String.format(messages, LLM) + "}";
        post("chat", "/v1/chat/completions", chat);
        post("chat_again", "/v1/chat/completions", chat);
        post("stream", "/v1/chat/completions", "{\"stream\":true," + String.format(messages, LLM) + "}");
        String tool = "{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"strict\":true,\"parameters\":{\"type\":\"object\","
                + "\"properties\":{\"city\":{\"enum\":[\"서울\",\"부산\"]}},\"required\":[\"city\"],\"additionalProperties\":false}}}";
        String choice = "\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"get_weather\"}}";
        post("tools", "/v1/chat/completions",
                "{\"tools\":[" + tool + "]," + choice + "," + String.format(messages, LLM).replace(":20,", ":300,\"frequency_penalty\":2,") + "}");
        String texts = "{\"model\":\"" + System.getenv("ONECARD_EMBEDDING") + "\",\"input\":[\"국물이 진해요\",\"직원이 친절해요\"]}";
        post("embeddings", "/v1/embeddings", texts);
        post("error", "/v1/chat/completions", "{" + String.format(messages, "no-such-model") + "}");
    }

    private static void post(String name, String path, String body) throws IOException, InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(URI.create(URL + path))
                .timeout(Duration.ofSeconds(120))
                .header("authorization", "Bearer " + System.getenv("ONECARD_KEY"))
                .header("content-type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
        HttpResponse<java.util.stream.Stream<String>> answer =
                CLIENT.send(request, HttpResponse.BodyHandlers.ofLines());
        List<String> lines = answer.body().filter(line -> !line.isEmpty()).collect(Collectors.toList());
        System.out.println(name + "\t" + answer.version() + "\t" + answer.statusCode() + "\t" + String.join("\t", lines));
    }
}
