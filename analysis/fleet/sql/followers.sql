-- How many VMs hold both a common content and a leader.
SELECT c.hash, l.place, l.holders AS leader_holders, COUNT(*) AS both_hold
FROM common AS c
JOIN led AS l ON c.vm_key = l.vm_key
GROUP BY c.hash, l.place, l.holders
