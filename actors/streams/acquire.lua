-- Take, renew, force or release a lease, by the server's clock.
--
-- KEYS[1]  lease:<role>[:<leg>]  hash, never expires: owner, until (server ms), epoch. Owner: whoever holds it.
-- ARGV     1 verb: take | renew | force | release   2 owner   3 ttl in ms   4 epoch I have had, or 0
-- Returns  {1 held or 0 not, epoch, until, owner, now}
--
-- take     also what another held and let run out; raises the epoch unless it is mine and alive
-- renew    only what is mine; raises the epoch when it had run out (nobody had it meanwhile)
-- force    only what is mine; always raises the epoch (after a rollback)
-- release  only what is mine; runs out at once
-- The epoch is above the old one and mine, and at least the server's ms: it stays ahead even of one that a
-- failover has rolled back.
local verb, owner, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('HMGET', KEYS[1], 'owner', 'until', 'epoch')
local holder = lease[1] or ''
local till, epoch = tonumber(lease[2] or '0'), tonumber(lease[3] or '0')
local mine = holder == owner
if not mine and (verb ~= 'take' or till > now) then
  return {0, epoch, till, holder, now}
end
if verb == 'release' then
  redis.call('HSET', KEYS[1], 'until', '0')
  return {0, epoch, 0, owner, now}
end
if not mine or till <= now or verb == 'force' then
  epoch = math.max(epoch + 1, tonumber(ARGV[4]) + 1, now)
end
till = now + ttl
redis.call('HSET', KEYS[1], 'owner', owner, 'until', string.format('%.0f', till), 'epoch', string.format('%.0f', epoch))
return {1, epoch, till, owner, now}
