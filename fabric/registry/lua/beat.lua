-- Turns a batch of heartbeats into leases, and ends the leases that have run out.
-- Works on Redis 6.2 and later: no field expiry, no functions.
--
-- ARGV: now, lease, grace (milliseconds), 1 if the heartbeats are everybody's and 0 if not, how many agents there may
-- be, how many instances of one, and how many of all; then for each heartbeat: agent, instance, digest, state, JSON
-- Returns: 1 if the catalogue changed and 0 if not; agent and digest, in turn, of each description that is not stored;
-- what is full, in words. Nothing, with nothing written, if there is no catalogue yet and the heartbeats are not
-- everybody's.

local now, lease, grace, everybody = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local most_agents, most_of_one, most_of_all = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local changed, missing, asked, full, told, stirred = everybody, {}, {}, {}, {}, {}
local sizes, agents, total = {}, 0, 0

-- The description of most instances that take calls speaks for the agent; where two have as many, that of the newest
-- instance. So one stray instance changes nothing for clients, and a rolling restart changes it once, half-way. Of an
-- agent without instances the last description stays.
local function elect(agent)
  local votes, newest, elected = {}, {}, nil
  for _, instance in ipairs(redis.call('ZRANGE', 'fab:instances:' .. agent, 0, -1)) do
    local leased = redis.call('GET', 'fab:lease:' .. agent .. ':' .. instance)
    if leased and leased ~= 'gone' then
      local beat = cjson.decode(leased)
      votes[beat.digest] = (votes[beat.digest] or 0) + (beat.state == 'ready' and 1 or 0)
      newest[beat.digest] = math.max(newest[beat.digest] or 0, beat.started)
    end
  end
  for digest, count in pairs(votes) do
    local ahead = elected and count - votes[elected]
    if not ahead or ahead > 0 or ahead == 0 and newest[digest] > newest[elected] then elected = digest end
  end
  if elected and redis.call('HGET', 'fab:digests', agent) ~= elected then
    redis.call('HSET', 'fab:digests', agent, elected)
    changed = 1
  end
end

-- Why one more instance of this agent is too many, if it is: a bus on which somebody forges heartbeats, or starts
-- workers without end, must not fill Redis, nor make a catalogue that no message can carry.
local function refusal(agent)
  if not sizes[agent] and agents >= most_agents then return 'there are ' .. agents .. ' agents' end
  if (sizes[agent] or 0) >= most_of_one then return agent .. ' has ' .. sizes[agent] .. ' instances' end
  if total >= most_of_all then return 'there are ' .. total .. ' instances' end
end

-- A Redis that is new, or has lost everything, is filled in one go: the first few would pass for all there are.
if everybody == 0 and tonumber(redis.call('GET', 'fab:revision') or 0) < 1 then return {} end

for _, agent in ipairs(redis.call('ZRANGE', 'fab:agents', 0, -1)) do
  local instances = 'fab:instances:' .. agent
  if redis.call('ZREMRANGEBYSCORE', instances, '-inf', now) > 0 then
    changed, stirred[agent] = 1, true
  end
  sizes[agent] = redis.call('ZCARD', instances)
  agents, total = agents + 1, total + sizes[agent]
end

for at = 8, #ARGV, 5 do
  local agent, instance, digest, state = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local instances, leased = 'fab:instances:' .. agent, 'fab:lease:' .. agent .. ':' .. instance
  local known = redis.call('ZSCORE', instances, instance)
  local refused = not known and refusal(agent)
  if refused then
    if not told[refused] then table.insert(full, refused) end
    told[refused] = true
  else
    if not sizes[agent] then sizes[agent], agents = 0, agents + 1 end
    local before = redis.call('GET', leased)
    if state == 'gone' then
      redis.call('SET', leased, 'gone', 'PX', lease)
      if known then
        redis.call('ZREM', instances, instance)
        sizes[agent], total = sizes[agent] - 1, total - 1
        changed, stirred[agent] = 1, true
      end
    elseif before ~= 'gone' then -- else this is an earlier heartbeat, which went through a slower registry
      local last = before and cjson.decode(before)
      if not known then sizes[agent], total = sizes[agent] + 1, total + 1 end
      if not known or not last or last.state ~= state or last.digest ~= digest then
        changed, stirred[agent] = 1, true
      end
      redis.call('ZADD', instances, now + lease, instance)
      redis.call('SET', leased, ARGV[at + 4], 'PX', lease)
      local description = 'fab:description:' .. agent .. ':' .. digest
      if redis.call('PEXPIRE', description, grace + lease) == 0 and not asked[description] then
        asked[description] = true
        table.insert(missing, agent)
        table.insert(missing, digest)
      end
    end
    redis.call('ZADD', 'fab:agents', now, agent)
  end
end

for agent in pairs(stirred) do elect(agent) end
for _, agent in ipairs(redis.call('ZRANGEBYSCORE', 'fab:agents', '-inf', now - grace)) do
  redis.call('ZREM', 'fab:agents', agent)
  redis.call('HDEL', 'fab:digests', agent)
  redis.call('DEL', 'fab:instances:' .. agent)
  changed = 1
end

if changed == 1 then redis.call('INCR', 'fab:revision') end
return {changed, missing, full}
