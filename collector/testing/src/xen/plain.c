// The pages of domains of Xen, in the plainest way, to compare huddle with:
//   plain read ID...   maps and reads every page in batches: what hashing cannot be faster than
//   plain count ID...  counts the contents that pairs of domains have in common, by hashes of its own and a sort
// Against Xen 4.17's libraries; PV domains only.
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <xenctrl.h>
#include <xenforeignmemory.h>
#include <xenguest.h>

#define BATCH 1024
#define PAGE 4096
#define MOST 16

struct page {
    uint64_t first, second;
    uint32_t domain;
};

static uint64_t now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

// Two hashes that have nothing to do with huddle's.
static void hash(const uint64_t *words, struct page *page) {
    uint64_t a = 0xcbf29ce484222325ull, b = 0x9e3779b97f4a7c15ull;
    for (int i = 0; i < PAGE / 8; i++) {
        a = (a ^ words[i]) * 0x100000001b3ull;
        a ^= a >> 29;
        b = (b + words[i]) * 0xbf58476d1ce4e5b9ull;
        b ^= b >> 31;
    }
    page->first = a;
    page->second = b;
}

static int by_content(const void *left, const void *right) {
    const struct page *l = left, *r = right;
    if (l->first != r->first) return l->first < r->first ? -1 : 1;
    if (l->second != r->second) return l->second < r->second ? -1 : 1;
    return (int)l->domain - (int)r->domain;
}

static size_t frames_of(xc_interface *xen, uint32_t id, xen_pfn_t **frames) {
    struct xc_domain_meminfo info = {0};
    if (xc_map_domain_meminfo(xen, id, &info)) {
        fprintf(stderr, "domain %u: %s\n", id, strerror(errno));
        exit(1);
    }
    size_t count = 0;
    *frames = malloc(info.p2m_size * sizeof **frames);
    for (unsigned long pfn = 0; pfn < info.p2m_size; pfn++) {
        unsigned long type = info.pfn_type[pfn] & XEN_DOMCTL_PFINFO_LTAB_MASK;
        if (type == XEN_DOMCTL_PFINFO_XTAB || type == XEN_DOMCTL_PFINFO_XALLOC ||
            type == XEN_DOMCTL_PFINFO_BROKEN || info.p2m_table[pfn] == ~0ul)
            continue;
        (*frames)[count++] = info.p2m_table[pfn];
    }
    xc_unmap_domain_meminfo(xen, &info);
    return count;
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 2 + MOST) return 2;
    int counts = !strcmp(argv[1], "count");
    xc_interface *xen = xc_interface_open(0, 0, 0);
    xenforeignmemory_handle *memory = xenforeignmemory_open(0, 0);
    if (!xen || !memory) {
        perror("Xen");
        return 1;
    }
    size_t lengths[MOST], total = 0;
    xen_pfn_t *frames[MOST];
    int domains = argc - 2;
    for (int d = 0; d < domains; d++) total += lengths[d] = frames_of(xen, atoi(argv[2 + d]), &frames[d]);
    struct page *pages = counts ? calloc(total, sizeof *pages) : 0;
    size_t seen = 0;
    volatile uint64_t sink = 0;
    uint64_t used_before = now(CLOCK_PROCESS_CPUTIME_ID), begun = now(CLOCK_MONOTONIC);
    for (int d = 0; d < domains; d++) {
        for (size_t at = 0; at < lengths[d]; at += BATCH) {
            size_t count = lengths[d] - at < BATCH ? lengths[d] - at : BATCH;
            int errors[BATCH];
            uint8_t *mapped =
                xenforeignmemory_map(memory, atoi(argv[2 + d]), PROT_READ, count, frames[d] + at, errors);
            if (!mapped) {
                perror("map");
                return 1;
            }
            for (size_t i = 0; i < count; i++) {
                if (errors[i]) continue;
                const uint64_t *words = (const uint64_t *)(mapped + i * PAGE);
                if (counts) {
                    hash(words, &pages[seen]);
                    pages[seen].domain = d;
                } else {
                    uint64_t sum = 0;
                    for (int word = 0; word < PAGE / 8; word++) sum += words[word];
                    sink += sum;
                }
                seen++;
            }
            xenforeignmemory_unmap(memory, mapped, count);
        }
    }
    uint64_t took = now(CLOCK_MONOTONIC) - begun, used = now(CLOCK_PROCESS_CPUTIME_ID) - used_before;
    if (!counts) {
        printf("%zu pages %llu ns %llu cpu_ns\n", seen, (unsigned long long)took, (unsigned long long)used);
        return 0;
    }
    static uint64_t zero_page[PAGE / 8];
    struct page zero = {0};
    hash(zero_page, &zero);
    qsort(pages, seen, sizeof *pages, by_content);
    uint64_t distinct[MOST] = {0}, zeros[MOST] = {0}, shared[MOST][MOST] = {{0}};
    for (size_t at = 0, end; at < seen; at = end) {
        uint64_t times[MOST] = {0};
        for (end = at; end < seen && pages[end].first == pages[at].first && pages[end].second == pages[at].second;
             end++)
            times[pages[end].domain]++;
        int is_zero = pages[at].first == zero.first && pages[at].second == zero.second;
        for (int i = 0; i < domains; i++) {
            if (is_zero) {
                zeros[i] += times[i];
                continue;
            }
            distinct[i] += times[i] > 0;
            for (int j = 0; j < domains; j++) shared[i][j] += i != j && times[i] && times[j];
        }
    }
    for (int i = 0; i < domains; i++) {
        printf("%zu %llu %llu", lengths[i], (unsigned long long)distinct[i], (unsigned long long)zeros[i]);
        for (int j = 0; j < domains; j++) printf(" %llu", (unsigned long long)shared[i][j]);
        printf("\n");
    }
    return 0;
}
