package workloads

import (
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// indexes is a set of completion indexes as sorted, disjoint, not adjacent spans. It is immutable.
type indexes []span

type span struct{ first, last int }

// parseIndexes reads the form "1,3-5,7" and drops what is not below limit. A part that cannot be read is left
// out: the status is ours, but anyone may have edited it.
func parseIndexes(text string, limit int) indexes {
	var set indexes
	for part := range strings.SplitSeq(text, ",") {
		low, high, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(low)
		if err != nil || first < 0 || first >= limit {
			continue
		}
		last := first
		if ranged {
			if last, err = strconv.Atoi(high); err != nil || last < first {
				continue
			}
		}
		set = append(set, span{first, min(last, limit-1)})
	}
	return set.normal()
}

// String writes the form that parseIndexes reads; two neighbours are listed, three or more a range.
func (s indexes) String() string {
	var parts []string
	for _, p := range s {
		parts = append(parts, strconv.Itoa(p.first))
		switch {
		case p.last == p.first+1:
			parts = append(parts, strconv.Itoa(p.last))
		case p.last > p.first:
			parts[len(parts)-1] += "-" + strconv.Itoa(p.last)
		}
	}
	return strings.Join(parts, ",")
}

func (s indexes) count() (n int) {
	for _, p := range s {
		n += p.last - p.first + 1
	}
	return n
}

func (s indexes) has(i int) bool {
	_, found := slices.BinarySearchFunc(s, i, func(p span, i int) int {
		switch {
		case p.last < i:
			return -1
		case p.first > i:
			return 1
		}
		return 0
	})
	return found
}

func (s indexes) with(i int) indexes {
	if s.has(i) {
		return s
	}
	return append(slices.Clone(s), span{i, i}).normal()
}

func (s indexes) union(t indexes) indexes {
	return slices.Concat(s, t).normal()
}

// normal sorts and merges spans, in place.
func (s indexes) normal() indexes {
	slices.SortFunc(s, func(a, b span) int { return a.first - b.first })
	var merged indexes
	for _, p := range s {
		if n := len(merged); n > 0 && p.first <= merged[n-1].last+1 {
			merged[n-1].last = max(merged[n-1].last, p.last)
			continue
		}
		merged = append(merged, p)
	}
	return merged
}

// gaps returns the lowest n indexes below limit that are not in the set.
func (s indexes) gaps(n, limit int) []int {
	var free []int
	next := 0
	for _, p := range append(slices.Clone(s), span{limit, limit}) {
		for ; next < min(p.first, limit) && len(free) < n; next++ {
			free = append(free, next)
		}
		next = max(next, p.last+1)
	}
	return free
}

// overlap counts the indexes that are in both sets.
func (s indexes) overlap(t indexes) (n int) {
	for _, a := range s {
		for _, b := range t {
			n += max(min(a.last, b.last)-max(a.first, b.first)+1, 0)
		}
	}
	return n
}

// indexOf returns the completion index of a pod, -1 if it has none.
func indexOf(pod *corev1.Pod) int {
	i, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 {
		return -1
	}
	return i
}
