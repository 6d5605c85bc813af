-- Append one batch of one leg to raw, once.
--
-- KEYS[1]  lease:<role>[:<leg>]  hash: epoch, read. Owner: the leg's holder (ticks: the normalizer's).
-- KEYS[2]  w:raw                 hash: id, bytes, batch:<leg>, at:<leg>. Owner: this script.
-- KEYS[3]  raw                   stream, ids <epoch>-<k>, k dense over all legs. Owner: this script.
-- ARGV     1 leg   2 epoch of my lease   3 number of my batch   4 how many lines   5 the lines
-- Returns  {'OK', id} | {'DUP', id}: this batch is in | {'STALE', number of the leg's last batch}
--          | {'FENCED', epoch of the lease}
local epoch = redis.call('HGET', KEYS[1], 'epoch') or '0'
if epoch ~= ARGV[2] then
  return {'FENCED', epoch}
end
local batch_field, at_field = 'batch:' .. ARGV[1], 'at:' .. ARGV[1]
local w = redis.call('HMGET', KEYS[2], 'id', 'bytes', batch_field, at_field)
local last, mine = tonumber(w[3] or '0'), tonumber(ARGV[3])
if mine ~= last + 1 then
  if mine == last then
    return {'DUP', w[4]}
  end
  return {'STALE', w[3] or '0'}
end
local top, k = string.match(w[1] or '0-0', '^(%d+)-(%d+)$')
-- Several legs write here, each under its own lease: the entry's epoch is the highest that has written.
local by = math.max(tonumber(top), tonumber(epoch))
local id = string.format('%.0f-%.0f', by, tonumber(k) + tonumber(ARGV[4]))
redis.call('XADD', KEYS[3], id, 'n', ARGV[4], 'd', ARGV[5])
redis.call('HSET', KEYS[2], 'id', id, 'bytes', string.format('%.0f', tonumber(w[2] or '0') + #ARGV[5]),
  batch_field, ARGV[3], at_field, id)
return {'OK', id}
