-- Commit one step of one stage: outputs, latest values, perhaps a checkpoint, and the cursor, or nothing.
--
-- KEYS[1]   lease:<role>  hash: epoch, read. Owner: the lease's holder.
-- KEYS[2]   ck:<role>     hash: c:<input>, i:<output>, b:<output>, skip. Owner: this script.
-- KEYS[3]   state:<role>  hash: c:<input>, format, blob. Owner: this script.
-- KEYS[4..] output streams (dense ids <epoch>-<k>, or the server's), then strings of latest values.
-- ARGV      1 epoch of my lease   2 input stream   3 cursor I stand at   4 cursor after this
--           5 skip list, or '' to leave it   6 format of the checkpoint, or '' for none   7 its blob
--           8 how many entries; then for each: key number, stream, lines in it ('*<n>': server id), lines
--           then, to the end, latest values: key number, value
-- Returns   {'OK'} | {'DUP'}: this commit is in | {'STALE', cursor} | {'FENCED', epoch of the lease}
--
-- The compare-and-set of the cursor makes it exactly once; the epoch keeps a deposed owner out and
-- numbers the writer. Cursor 3 may equal cursor 4 only where there are no entries.
local KEEP = '10000'
local epoch = redis.call('HGET', KEYS[1], 'epoch') or '0'
if epoch ~= ARGV[1] then
  return {'FENCED', epoch}
end
local cursor_field = 'c:' .. ARGV[2]
local cursor = redis.call('HGET', KEYS[2], cursor_field) or '0-0'
if cursor ~= ARGV[3] then
  if cursor == ARGV[4] then
    return {'DUP'}
  end
  return {'STALE', cursor}
end
local set = {cursor_field, ARGV[4]}
local at = 9
for _ = 1, tonumber(ARGV[8]) do
  local key, stream, n, lines = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  at = at + 4
  if string.byte(n) == 42 then
    redis.call('XADD', key, 'MAXLEN', '~', KEEP, '*', 'n', string.sub(n, 2), 'd', lines)
  else
    local id_field, bytes_field = 'i:' .. stream, 'b:' .. stream
    local w = redis.call('HMGET', KEYS[2], id_field, bytes_field)
    local k = tonumber(string.match(w[1] or '0-0', '-(%d+)$'))
    local id = epoch .. '-' .. string.format('%.0f', k + tonumber(n))
    redis.call('XADD', key, id, 'n', n, 'd', lines)
    redis.call('HSET', KEYS[2], id_field, id, bytes_field, string.format('%.0f', tonumber(w[2] or '0') + #lines))
  end
end
for i = at, #ARGV, 2 do
  redis.call('SET', KEYS[tonumber(ARGV[i])], ARGV[i + 1])
end
if ARGV[5] ~= '' then
  set[3], set[4] = 'skip', ARGV[5]
end
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[3], cursor_field, ARGV[4], 'format', ARGV[6], 'blob', ARGV[7])
end
redis.call('HSET', KEYS[2], unpack(set))
return {'OK'}
