-- Trim one stream to what somebody still needs, and note how far it has come.
--
-- KEYS[1]   raw | events | books | flow  stream, trimmed. Owner: its writer (raw: the normalizer).
-- KEYS[2]   ck:<role>  hash: t:<stream> notes, seen. Owner: the role that trims.
-- KEYS[3]   w:raw or ck:<role>  hash, read: last id and bytes ever appended. Owner: the stream's writer.
-- KEYS[4..] ck:<reader>, state:<reader>  hashes, read: c:<stream>. Owner: each reader.
-- ARGV      1 stream   2 field of the last id   3 field of the bytes   4 floor in ms   5 cap in bytes
-- Returns   {entries trimmed, 'floor' | 'cap' | '' what decided, id trimmed to, server ms}
--
-- Floor: an entry stays until it is older than the floor and every reader's cursor and checkpoint have
-- passed it. Cap: above it the oldest go all the same; a reader then sees the numbers jump.
-- A note is 'ms,bytes,id': what had been appended by then. XTRIM comes before the notes, and always: where
-- memory is used up it is allowed, and what follows a first write of a script is too.
local stream, floor, cap = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local notes_field = 't:' .. stream
local top = redis.call('HMGET', KEYS[3], ARGV[2], ARGV[3])
local last, bytes = top[1], tonumber(top[2] or '0')

local function less(a, b)
  local ae, ak = string.match(a, '^(%d+)-(%d+)$')
  local be, bk = string.match(b, '^(%d+)-(%d+)$')
  ae, be = tonumber(ae), tonumber(be)
  return ae < be or (ae == be and tonumber(ak) < tonumber(bk))
end

local trimmed, why, to = 0, '', ''
if last then
  local notes = {}
  for ms, had, id in string.gmatch(redis.call('HGET', KEYS[2], notes_field) or '', '(%d+),(%d+),([%d-]+)') do
    -- Notes of what a failover took back again would trim what is there now.
    if not less(last, id) and tonumber(had) <= bytes then
      notes[#notes + 1] = {tonumber(ms), tonumber(had), id}
    end
  end
  local by_floor, by_cap
  for _, note in ipairs(notes) do
    if note[1] <= now - floor then by_floor = note[3] end
    if note[2] <= bytes - cap then by_cap = note[3] end
  end
  if by_floor then
    why, to = 'floor', by_floor
    for i = 4, #KEYS do
      local cursor = redis.call('HGET', KEYS[i], 'c:' .. stream)
      if cursor and less(cursor, to) then to = cursor end
    end
  end
  if by_cap and (to == '' or less(to, by_cap)) then
    why, to = 'cap', by_cap
  end
  trimmed = redis.call('XTRIM', KEYS[1], 'MINID', '~', to == '' and '0-0' or to)
  local newest = notes[#notes]
  if not newest or (newest[3] ~= last and (now - newest[1] >= floor / 64 or bytes - newest[2] >= cap / 64)) then
    notes[#notes + 1] = {now, bytes, last}
  end
  local thin = #notes > 256
  local text = {}
  for i, note in ipairs(notes) do
    local of_use = to == '' or not less(note[3], to)
    if of_use and not (thin and i % 2 == 0 and i < #notes / 2) then
      text[#text + 1] = string.format('%.0f,%.0f,%s', note[1], note[2], note[3])
    end
  end
  redis.call('HSET', KEYS[2], notes_field, table.concat(text, ';'))
end
redis.call('HSET', KEYS[2], 'seen', string.format('%.0f', now))
return {trimmed, why, to, now}
