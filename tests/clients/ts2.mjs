// The TypeScript client package 2.x against a URL: connect in one of its three modes, list every tool, call one.
//
//   node ts2.mjs URL auto|legacy|modern [TOKEN]
//
// auto asks server/discover first and falls back to the handshake; legacy only shakes hands; modern allows 2026-07-28
// and nothing else.

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { argumentsOfCall, checkResult, pickTool, readArguments, report, withToken } from './check.mjs';

const MODES = { auto: 'auto', legacy: 'legacy', modern: { pin: '2026-07-28' } };
const TIMEOUT = { timeout: 15_000 };
const USAGE = `node ts2.mjs URL ${Object.keys(MODES).join('|')} [TOKEN]`;
const { url, mode, token } = readArguments(USAGE, ['url', 'mode']);

if (!Object.hasOwn(MODES, mode)) {
  console.error(`usage: ${USAGE}`);
  process.exit(2);
}

await report(async () => {
  const client = new Client(
    { name: 'fabric-test-ts2', version: '1.0.0' },
    { versionNegotiation: { mode: MODES[mode] } }
  );
  const transport = new StreamableHTTPClientTransport(new URL(url), withToken(token));
  await client.connect(transport, TIMEOUT);
  try {
    const { tools: listed } = await client.listTools(undefined, TIMEOUT); // 2.x follows the cursors itself
    const tools = listed.map((tool) => tool.name);
    const result = await client.callTool({ name: pickTool(tools), arguments: argumentsOfCall }, TIMEOUT);
    checkResult(result);
    if (client.getProtocolEra() === 'legacy') await transport.terminateSession();
    return { era: client.getProtocolEra(), protocolVersion: client.getNegotiatedProtocolVersion(), tools, result };
  } finally {
    await client.close();
  }
});
