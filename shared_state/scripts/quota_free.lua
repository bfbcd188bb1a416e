-- Count things under a quota no more. Safe to repeat.
-- KEYS  1 id → when it is counted no more, ms   2 'id:<id>' → '<bytes> <credential>'; 'all', 'of:<credential>' → bytes
-- ARGV  1 id   2.. id, ... of more
-- reply how many were counted
-- uses: _quota
local freed = 0
for i = 1, #ARGV do freed = freed + forget(ARGV[i]) end
return freed
