// The TypeScript clients over standard input and output: connect, list every tool, call one.
//
//   node ts.mjs v1|auto|legacy|modern COMMAND [ARGUMENT ...]
//
// v1 is the SDK of the handshake revisions; the others are the three modes of the client package 2.x. Both packages are
// those of ../clients.

import { createRequire } from 'node:module';
import { argumentsOfCall, checkResult, pickTool, report } from '../clients/check.mjs';

const require = createRequire(new URL('../clients/package.json', import.meta.url));
const MODES = { auto: 'auto', legacy: 'legacy', modern: { pin: '2026-07-28' } };
const TIMEOUT = { timeout: 15_000 };
const INFO = { name: 'fabric-test-stdio', version: '1.0.0' };
const [mode, command, ...args] = process.argv.slice(2);
const program = { command, args, env: process.env, stderr: 'inherit' };

async function v1() {
  const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
  const { StdioClientTransport } = require('@modelcontextprotocol/sdk/client/stdio.js');
  const client = new Client(INFO);
  await client.connect(new StdioClientTransport(program), TIMEOUT);
  return { client, era: 'legacy', call: (asked) => client.callTool(asked, undefined, TIMEOUT) };
}

async function v2() {
  const { Client } = require('@modelcontextprotocol/client');
  const { StdioClientTransport } = require('@modelcontextprotocol/client/stdio');
  const client = new Client(INFO, { versionNegotiation: { mode: MODES[mode] } });
  await client.connect(new StdioClientTransport(program), TIMEOUT);
  return { client, era: client.getProtocolEra(), call: (asked) => client.callTool(asked, TIMEOUT) };
}

await report(async () => {
  const { client, era, call } = await (mode === 'v1' ? v1() : v2());
  try {
    const tools = (await client.listTools(undefined, TIMEOUT)).tools.map((tool) => tool.name);
    const result = await call({ name: pickTool(tools), arguments: argumentsOfCall });
    checkResult(result);
    return { era, tools, result };
  } finally {
    await client.close();
  }
});
