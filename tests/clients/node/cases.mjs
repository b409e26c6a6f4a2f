// What each Node client is asked to do: as python/cases.py.
export const URL = process.env.ONECARD_URL;
export const BASE_URL = `${URL}/v1`;
export const KEY = process.env.ONECARD_KEY;
export const LLM = process.env.ONECARD_LLM;
export const EMBEDDING = process.env.ONECARD_EMBEDDING;
export const PROMPT = "리뷰를 한 문장으로 요약해 줘.\n- 국물이 진해요.\n- 직원이 친절해요.";
export const MESSAGES = [{ role: "user", content: PROMPT }];
export const TEXTS = ["국물이 진해요", "직원이 친절해요"];
export const UNKNOWN = "no-such-model";
export const CITIES = ["서울", "부산"];

/** Call each case and print `{case, value}` or `{case, failure}`. */
export async function run(cases) {
  for (const [name, call] of Object.entries(cases)) {
    let outcome;
    try {
      outcome = { case: name, value: await call() };
    } catch (error) {
      outcome = { case: name, failure: `${error.name}: ${error.message}` };
    }
    console.log("RESULT " + JSON.stringify(outcome));
  }
}

/** What a call that must fail shows its user. */
export async function failure(call) {
  try {
    await call();
  } catch (error) {
    return { error: error.name, status: error.status ?? error.statusCode ?? null, text: String(error.message) };
  }
  throw new Error("it did not fail");
}
