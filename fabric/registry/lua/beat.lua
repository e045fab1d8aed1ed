-- Turns a batch of heartbeats into leases, and ends the leases that have run out.
-- Works on Redis 6.2 and later: no field expiry, no functions.
--
-- ARGV: now, lease, grace (milliseconds), 1 if the heartbeats are everybody's and 0 if not, then for each heartbeat:
-- agent, instance, digest, state, started, JSON
-- Returns: 1 if the catalogue changed and 0 if not, then the digests whose description is not stored;
-- nothing, with nothing written, if there is no catalogue yet and the heartbeats are not everybody's.

local now, lease, grace, everybody = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local changed, missing, asked, touched = everybody, {}, {}, {}

-- The newest living instance speaks for the agent: in a rolling restart the new description wins once, for good, and
-- one that is taken back gives way. Of an agent without instances the last description stays.
local function speak(agent, digest, started, instance)
  local known = redis.call('HGET', 'fab:digest:' .. agent, 'digest')
  if known ~= digest then changed = 1 end
  redis.call('HSET', 'fab:digest:' .. agent, 'digest', digest, 'started', started, 'instance', instance)
end

local function succeed(agent)
  local instances = 'fab:instances:' .. agent
  local speaker = redis.call('HGET', 'fab:digest:' .. agent, 'instance')
  if speaker and redis.call('ZSCORE', instances, speaker) then return end
  local newest
  for _, instance in ipairs(redis.call('ZRANGE', instances, 0, -1)) do
    local leased = redis.call('GET', 'fab:lease:' .. instance)
    local beat = leased and cjson.decode(leased)
    if beat and (not newest or beat.started > newest.started) then newest = beat end
  end
  if newest then speak(agent, newest.digest, math.floor(newest.started * 1000), newest.instance) end
end

-- A Redis that is new, or has lost everything, is filled in one go: the first few would pass for all there are.
if everybody == 0 and redis.call('EXISTS', 'fab:revision') == 0 then return {} end

for _, agent in ipairs(redis.call('ZRANGE', 'fab:agents', 0, -1)) do
  if redis.call('ZREMRANGEBYSCORE', 'fab:instances:' .. agent, '-inf', now) > 0 then
    changed, touched[agent] = 1, true
  end
end

for at = 5, #ARGV, 6 do
  local agent, instance, digest, state = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local instances, leased = 'fab:instances:' .. agent, 'fab:lease:' .. instance
  local before = redis.call('GET', leased)
  if state == 'gone' then
    changed = math.max(changed, redis.call('ZREM', instances, instance))
    redis.call('SET', leased, 'gone', 'PX', lease)
  elseif before ~= 'gone' then -- else this is an earlier heartbeat, which went through a slower registry
    changed = math.max(changed, redis.call('ZADD', instances, now + lease, instance))
    if before and not string.find(before, '"state":"' .. state .. '"', 1, true) then changed = 1 end
    redis.call('SET', leased, ARGV[at + 5], 'PX', lease)
    local latest, started = redis.call('HGET', 'fab:digest:' .. agent, 'started'), tonumber(ARGV[at + 4])
    if not latest or started >= tonumber(latest) then speak(agent, digest, started, instance) end
    if redis.call('PEXPIRE', 'fab:description:' .. digest, grace + lease) == 0 and not asked[digest] then
      asked[digest] = true
      table.insert(missing, digest)
    end
  end
  redis.call('ZADD', 'fab:agents', now, agent)
  touched[agent] = true
end

for agent in pairs(touched) do succeed(agent) end
for _, agent in ipairs(redis.call('ZRANGEBYSCORE', 'fab:agents', '-inf', now - grace)) do
  redis.call('ZREM', 'fab:agents', agent)
  redis.call('DEL', 'fab:digest:' .. agent, 'fab:instances:' .. agent)
  changed = 1
end

if changed == 1 then redis.call('INCR', 'fab:revision') end
table.insert(missing, 1, changed)
return missing
