-- What each VM holds that others hold, too.
SELECT h.vm_key, h.hash, n.holders FROM held AS h JOIN holders AS n ON h.hash = n.hash
