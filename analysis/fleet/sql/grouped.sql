-- What each VM holds of families.
SELECT c.vm_key, c.hash, m.family_key FROM common AS c JOIN members AS m ON c.hash = m.hash
