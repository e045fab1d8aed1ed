// What both TypeScript clients share: the command line, the tool to call, and whether the answer is right.

const SENT = 'hello';

/** Stops with the usage text unless every argument but the token is there. */
export function readArguments(usage, names) {
  const values = process.argv.slice(2);
  if (values.length < names.length || values.length > names.length + 1) {
    console.error(`usage: ${usage}`);
    process.exit(2);
  }
  return Object.fromEntries([...names, 'token'].map((name, place) => [name, values[place]]));
}

/** Options of the HTTP transport; the bearer token goes on every request when there is one. */
export function withToken(token) {
  return token ? { requestInit: { headers: { Authorization: `Bearer ${token}` } } } : {};
}

/** The name to call: TOOL when set, else `echo` or the first name that ends with `_echo`. */
export function pickTool(names) {
  const wanted = process.env.TOOL;
  const found = names.find((name) => (wanted ? name === wanted : name === 'echo' || name.endsWith('_echo')));
  if (!found) throw new Error(`no tool ${wanted ?? 'echo'} among ${names.join(', ') || 'none'}`);
  return found;
}

export const argumentsOfCall = { text: SENT };

/** Throws unless the result is a success whose text holds what was sent. */
export function checkResult(result) {
  const said = (result.content ?? []).filter((block) => block.type === 'text').map((block) => block.text);
  if (result.isError || !said.some((text) => text.includes(SENT))) {
    throw new Error(`wrong answer: ${JSON.stringify(result)}`);
  }
}

/** Runs a client to its end: one JSON line and exit 0, or the reason on stderr and exit 1. */
export async function report(run) {
  try {
    console.log(JSON.stringify(await run()));
  } catch (error) {
    console.error(error instanceof Error ? (error.stack ?? error.message) : String(error));
    process.exitCode = 1;
  }
}
