-- Which VMs hold a candidate.
SELECT c.vm_key, l.place FROM common AS c JOIN candidates AS l ON c.hash = l.leader
