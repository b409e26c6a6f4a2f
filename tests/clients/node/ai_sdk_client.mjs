// Vercel's AI SDK with its provider for OpenAI-compatible servers.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, streamText, tool } from "ai";
import { z } from "zod";
import { BASE_URL, CITIES, EMBEDDING, KEY, LLM, PROMPT, TEXTS, UNKNOWN, failure, run } from "./cases.mjs";

const onecard = createOpenAICompatible({ name: "onecard", baseURL: BASE_URL, apiKey: KEY });
const ask = (more) => generateText({ model: onecard(LLM), prompt: PROMPT, maxOutputTokens: 20, maxRetries: 0, ...more });

await run({
  chat: async () => (await ask()).text,
  stream: async () => {
    const pieces = [];
    const answer = streamText({ model: onecard(LLM), prompt: PROMPT, maxOutputTokens: 20, maxRetries: 0 });
    for await (const piece of answer.textStream) pieces.push(piece);
    return pieces;
  },
  tools: async () => {
    const get_weather = tool({ inputSchema: z.object({ city: z.enum(CITIES) }), strict: true });
    const choice = { type: "tool", toolName: "get_weather" };
    const answer = await ask({ tools: { get_weather }, toolChoice: choice, maxOutputTokens: 300, frequencyPenalty: 2 });
    return { name: answer.toolCalls[0].toolName, arguments: answer.toolCalls[0].input };
  },
  embeddings: async () => {
    const model = onecard.embeddingModel(EMBEDDING);
    return (await embedMany({ model, values: TEXTS, maxRetries: 0 })).embeddings;
  },
  error: () => failure(() => ask({ model: onecard(UNKNOWN) })),
});
