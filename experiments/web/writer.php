<?php
// As resident.php, and writes to every node that it visits: no page stays merged.
$at = empty($_GET['own']) ? 0x600000000000 : 0x610000000000; // as in memory.php
$position = (int) $_GET['from'];
for ($visit = (int) $_GET['visits']; $visit > 0; $visit--) {
    $position = rewrite(FFI::cast('int64_t *', $at), $position, (int) $_GET['reads']);
    if ($visit > 1) {
        usleep(1);
    }
}
echo $position, "\n";

function rewrite(FFI\CData $data, int $position, int $reads): int
{
    for ($i = 0; $i < $reads; $i++) {
        // The last word of the node is noise that nobody follows.
        $data[$position + 7] = $data[$position + 7] + 1;
        $position = $data[$position];
    }
    return $position;
}
