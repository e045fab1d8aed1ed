// The TypeScript SDK of the handshake revisions (1.x) against a URL: connect, list every tool, call one.
//
//   node ts1.mjs URL [TOKEN]

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { argumentsOfCall, checkResult, pickTool, readArguments, report, withToken } from './check.mjs';

const TIMEOUT = { timeout: 15_000 };
const { url, token } = readArguments('node ts1.mjs URL [TOKEN]', ['url']);

await report(async () => {
  const client = new Client({ name: 'fabric-test-ts1', version: '1.0.0' });
  const transport = new StreamableHTTPClientTransport(new URL(url), withToken(token));
  await client.connect(transport, TIMEOUT);
  try {
    const tools = [];
    let cursor;
    do {
      const page = await client.listTools(cursor === undefined ? undefined : { cursor }, TIMEOUT);
      tools.push(...page.tools.map((tool) => tool.name));
      cursor = page.nextCursor;
    } while (cursor !== undefined);
    const result = await client.callTool({ name: pickTool(tools), arguments: argumentsOfCall }, undefined, TIMEOUT);
    checkResult(result);
    await transport.terminateSession();
    return { era: 'legacy', protocolVersion: transport.protocolVersion, tools, result };
  } finally {
    await client.close();
  }
});
