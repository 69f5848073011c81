-- Contents of few VMs, by which VMs that belong together are found: joined with themselves they give at most
-- {max_holders} rows for each.
SELECT vm_key, hash FROM shared WHERE holders <= {max_holders}
