-- One tools/call, over and over; every answer must hold the text and be no error. Run and read by load.py, and by
-- loadtests/peers/run.py; they make the whole request: BENCH_HEADERS has a header on each line.

local text = os.getenv("BENCH_TEXT")

wrk.method = "POST"
wrk.body = os.getenv("BENCH_BODY")
for name, value in string.gmatch(os.getenv("BENCH_HEADERS"), "([^:\n]+): ([^\n]*)") do
  wrk.headers[name] = value
end

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

wrong = 0
wrong_answer = ""

function response(status, headers, body)
  if status ~= 200 or not string.find(body, text, 1, true) or string.find(body, '"isError": ?true') then
    if wrong == 0 then
      wrong_answer = status .. " " .. string.gsub(string.sub(body, 1, 200), "%s", " ")
    end
    wrong = wrong + 1
  end
end

-- The last line: requests, microseconds, wrong answers, broken connections, the median in microseconds, and the first
-- wrong answer.
function done(summary, latency, requests)
  local wrong, first, errors = 0, "", summary.errors
  for _, thread in ipairs(threads) do
    wrong = wrong + thread:get("wrong")
    first = thread:get("wrong_answer")
  end
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format("\n%d %d %d %d %d %s", summary.requests, summary.duration, wrong, broken,
    latency:percentile(50), first))
end
