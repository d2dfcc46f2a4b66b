// Package quantile says which of many times a share of them do not exceed.
package quantile

import "time"

// Of is the smallest value that at least the share q of them do not exceed; 0 of
// none. The values must be in ascending order.
func Of(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(q * float64(len(sorted)))
	if float64(rank) < q*float64(len(sorted)) {
		rank++
	}
	return sorted[max(rank, 1)-1]
}
