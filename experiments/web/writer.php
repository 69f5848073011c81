<?php
// As resident.php, and writes to every node that it visits: no page stays merged.
require __DIR__ . '/memory.php';

function rewrite(FFI\CData $data, int $position, int $reads): int
{
    for ($i = 0; $i < $reads; $i++) {
        // The last word of the node is noise that nobody follows.
        $data[$position + 7] = $data[$position + 7] + 1;
        $position = $data[$position];
    }
    return $position;
}

echo rewrite(resident(file_of_request()), (int) $_GET['from'], (int) $_GET['reads']), "\n";
