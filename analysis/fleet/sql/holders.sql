-- How many VMs hold a content, where more than one does: no placement brings the others together with anything.
SELECT hash, COUNT(*) AS holders FROM held GROUP BY hash HAVING COUNT(*) > 1
