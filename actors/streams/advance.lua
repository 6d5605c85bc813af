-- Note how far a delivering role has come. This registers it as a reader for trimming.
--
-- KEYS[1]  lease:<role>  hash: epoch, read. Owner: the lease's holder.
-- KEYS[2]  ck:<role>     hash: c:<stream> and other cursors, seen. Owner: this script.
-- ARGV     1 epoch of my lease, then field, cursor, field, cursor ...
-- Returns  {'OK'} | {'FENCED', epoch of the lease}
--
-- No compare-and-set: whoever is delivered to decides where to go on, and that may be further back.
local epoch = redis.call('HGET', KEYS[1], 'epoch') or '0'
if epoch ~= ARGV[1] then
  return {'FENCED', epoch}
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[2], 'seen', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), unpack(ARGV, 2))
return {'OK'}
