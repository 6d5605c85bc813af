-- Take from one of an address' budgets at a venue, give back, or bar it for a while; by the server's clock.
--
-- KEYS[1]  limit:<venue>:<egress>  hash, expires: <budget>:<server s> what was taken in that second,
--          bar:<budget> server ms until which nothing may be taken. Owner: this script.
-- ARGV     take  2 budget   3 how much   then pairs: the most in a window, window in s; the longest last
--          back  2 budget   3 how much   4 the second that take told of
--          bar   2 budget   3 ms from now; a shorter bar never replaces a longer one
-- Returns  {ms to wait before asking again, 0: it is taken; the server's second}
--
-- The window rolls: what was taken in a second counts until window + 1 s after that second began, so no
-- span of that length ever holds more than the most, wherever it begins.
local verb, budget = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local second, now = tonumber(time[1]), time[1] * 1000 + math.floor(time[2] / 1000)
local bar_field = 'bar:' .. budget
local barred = tonumber(redis.call('HGET', KEYS[1], bar_field) or '0')

if verb == 'back' then
  -- Out of the second it was taken in: anywhere else it would leave room for more than the most for a while.
  local slot = budget .. ':' .. ARGV[4]
  local spent = tonumber(redis.call('HGET', KEYS[1], slot) or '0')
  if spent > 0 then
    redis.call('HINCRBY', KEYS[1], slot, string.format('%.0f', -math.min(spent, tonumber(ARGV[3]))))
  end
  return {0, second}
end

local function keep(ms)
  if redis.call('PTTL', KEYS[1]) < ms then
    redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ms))
  end
end

if verb == 'bar' then
  local till = now + tonumber(ARGV[3])
  if till > barred then
    redis.call('HSET', KEYS[1], bar_field, string.format('%.0f', till))
    keep(tonumber(ARGV[3]) + 1000)
  end
  return {math.max(0, math.max(till, barred) - now), second}
end

if barred > now then
  return {barred - now, second}
end
local cost, longest = tonumber(ARGV[3]), tonumber(ARGV[#ARGV])
local taken, old = {}, {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local name, at = string.match(fields[i], '^(.*):(%d+)$')
  if name == budget then
    if tonumber(at) > second then -- the clock was set back: it counts from now on, not until then
      redis.call('HDEL', KEYS[1], fields[i])
      redis.call('HINCRBY', KEYS[1], budget .. ':' .. time[1], fields[i + 1])
      at = time[1]
    end
    if tonumber(at) < second - longest then
      old[#old + 1] = fields[i]
    else
      taken[#taken + 1] = {tonumber(at), tonumber(fields[i + 1])}
    end
  end
end
if #old > 0 then
  redis.call('HDEL', KEYS[1], unpack(old))
end
table.sort(taken, function(a, b) return a[1] > b[1] end)
for i = 4, #ARGV, 2 do
  local most, window = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local spent = math.min(cost, most)
  for _, slot in ipairs(taken) do -- newest first: the one that is too much has to leave the window
    spent = spent + slot[2]
    if slot[1] >= second - window and spent > most then
      return {math.max(1, (slot[1] + window + 1) * 1000 - now), second}
    end
  end
end
redis.call('HINCRBY', KEYS[1], budget .. ':' .. time[1], string.format('%.0f', cost))
keep((longest + 2) * 1000)
return {0, second}
