-- Contents of many VMs. Joined with themselves they would give a row for about every pair of VMs, so they are taken
-- together as families.
SELECT vm_key, hash FROM shared WHERE holders > {max_holders}
