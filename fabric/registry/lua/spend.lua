-- Counts what one gateway used of its limits, and tells how they stand with the use of all gateways.
-- Works on Redis 6.2 and later. The only clock is this server's.
--
-- ARGV: the gateway's own key, the number of its report, for how long (microseconds) a late use counts where it was;
-- then for each bucket: its key, the microseconds since the first of these uses, the microseconds in which the rate
-- gives them back, the key of the day's count or '', the uses, the day's uses that the gateway knew of before
-- Returns: for each bucket, the microseconds until its rate has given everything back (less than 0: since when), and
-- the day's uses. A report whose number is not new was counted before: it is only answered.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local number, late = tonumber(ARGV[2]), tonumber(ARGV[3])
local new = number > tonumber(redis.call('GET', ARGV[1]) or 0)
local standings = {}

if new then redis.call('SET', ARGV[1], ARGV[2], 'EX', 86400) end

for at = 4, #ARGV, 6 do
  local ahead, age, spent, day = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3]
  local uses, known = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])

  local free = tonumber(redis.call('GET', ahead) or 0)
  if new and spent > 0 then
    free = math.max(free, now - age) + spent
    local kept = math.ceil((free - now + late) / 1000)
    if kept > 0 then redis.call('SET', ahead, free, 'PX', kept) end
  end
  table.insert(standings, free - now)

  local used = 0
  if day ~= '' then
    used = math.max(tonumber(redis.call('GET', day) or 0), known)
    if new then
      used = used + uses
      redis.call('SET', day, used, 'EX', 172800)
    end
  end
  table.insert(standings, used)
end

return standings
