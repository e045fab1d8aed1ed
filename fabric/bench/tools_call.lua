-- One tools/call of MCP 2026-07-28, over and over; every answer must hold the text. Run and read by load.py.

local text, tool = os.getenv("BENCH_TEXT"), os.getenv("BENCH_TOOL")

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["MCP-Protocol-Version"] = "2026-07-28"
wrk.headers["Mcp-Method"] = "tools/call"
wrk.headers["Mcp-Name"] = tool
wrk.headers["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN")
wrk.body = string.format(
  '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"%s","arguments":{"text":"%s"},"_meta":{'
    .. '"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    .. '"io.modelcontextprotocol/clientInfo":{"name":"wrk","version":"4"},'
    .. '"io.modelcontextprotocol/clientCapabilities":{}}}}',
  tool, text)

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

wrong = 0
wrong_answer = ""

function response(status, headers, body)
  if status ~= 200 or not string.find(body, text, 1, true) then
    if wrong == 0 then
      wrong_answer = status .. " " .. string.sub(body, 1, 200)
    end
    wrong = wrong + 1
  end
end

-- The last lines: requests, microseconds, wrong answers, broken connections, and the first wrong answer.
function done(summary, latency, requests)
  local wrong, first, errors = 0, "", summary.errors
  for _, thread in ipairs(threads) do
    wrong = wrong + thread:get("wrong")
    first = thread:get("wrong_answer")
  end
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format("\n%d %d %d %d %s", summary.requests, summary.duration, wrong, broken, first))
end
