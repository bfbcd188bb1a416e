-- Store a new session. Safe to repeat: what this very call stored already is found by owner and time of creation. An id
-- that was used before may be used again only by its owner, and only after it ended.
-- KEYS  1 session   2 its events   3 its files
-- ARGV  1 owner   2 life, ms   3 created at, ms   4 id of the request ('' = none)   5 what is asked for, as a hash
--       6.. field, value, ...
-- reply {1}, or {0, owner, state} of the session that has the id, or {2} it is of this very request, and has ended
-- uses: _terminal
local there = redis.call('HMGET', KEYS[1], 'deadline_ms', 'state', 'owner', 'created_ms', 'request_id', 'fingerprint')
if there[1] then
  local state, owner = there[2] or 'created', there[3] or ''
  if owner == ARGV[1] and there[4] == ARGV[3] then return {1} end
  if not is_terminal(state) or owner ~= ARGV[1] or ARGV[1] == '' then return {0, owner, state} end
  if ARGV[4] ~= '' and there[5] == ARGV[4] and (there[6] or '') == ARGV[5] then return {2} end
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
end
redis.call('HSET', KEYS[1], 'created_ms', ARGV[3], unpack(ARGV, 6))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {1}
