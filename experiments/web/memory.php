<?php
// Memory of this server that outlives a request. PHP frees what a script allocated when its request
// ends, and what opcache and APCu keep lies in shared memory, which KSM never merges. These mappings
// are private and anonymous, as all memory of a VM is to its host, and start on a page, so that equal
// data is equal pages. Their addresses are fixed: that is how one request finds what another left.

// Far from where Linux puts programs, heaps and libraries (Documentation/arch/x86/x86_64/mm.rst).
const DATA_AT = ['data.bin' => 0x600000000000, 'own.bin' => 0x610000000000];

// Words of 64 bits: the position of a node's successor in the first word of its cache line.
function resident(string $file): FFI\CData
{
    $at = DATA_AT[$file];
    return FFI::cast('int64_t *', $at);
}
