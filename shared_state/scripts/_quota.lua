-- A quota: how many bytes are held by what, and until when. Functions for the scripts that begin with it.
-- KEYS  1 id → when it is counted no more, ms   2 'id:<id>' → '<bytes> <credential>'; 'all', 'of:<credential>' → bytes
local function count(field, by)
  if redis.call('HINCRBY', KEYS[2], field, by) <= 0 then redis.call('HDEL', KEYS[2], field) end
end
local function forget(id)
  redis.call('ZREM', KEYS[1], id)
  local held = redis.call('HGET', KEYS[2], 'id:' .. id)
  if not held then return 0 end
  local bytes, credential = string.match(held, '^(%d+) (.*)$')
  redis.call('HDEL', KEYS[2], 'id:' .. id)
  count('all', -bytes)
  count('of:' .. credential, -bytes)
  return 1
end
