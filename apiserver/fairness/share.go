package fairness

import (
	"math"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/utils/ptr"
)

// bounds are between which numbers of seats a level has, and how many when nobody borrows (KEP-1040, "Borrowing").
type bounds struct{ lower, nominal, upper int }

// divide gives each level its bounds of so many seats.
func divide(seats int, levels []*flowcontrolv1.PriorityLevelConfiguration) map[string]bounds {
	var shares int64
	for _, l := range levels {
		share, _, _ := sharesOf(l)
		shares += int64(share)
	}
	all := make(map[string]bounds, len(levels))
	for _, l := range levels {
		share, lendable, borrows := sharesOf(l)
		var b bounds
		if shares > 0 {
			b.nominal = int(math.Ceil(float64(seats) * float64(share) / float64(shares)))
		}
		b.lower = b.nominal - part(b.nominal, lendable)
		if b.upper = b.nominal + seats; borrows != nil {
			b.upper = b.nominal + part(b.nominal, *borrows)
		}
		all[l.Name] = b
	}
	return all
}

func part(seats int, percent int32) int {
	return int(math.Round(float64(seats) * float64(percent) / 100))
}

// sharesOf is what a level has of the seats: its share, how much of it it lends, and how much it borrows besides; nil is any number.
func sharesOf(l *flowcontrolv1.PriorityLevelConfiguration) (share, lendable int32, borrows *int32) {
	if e := l.Spec.Exempt; l.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt {
		if e == nil {
			return 0, 0, nil
		}
		return ptr.Deref(e.NominalConcurrencyShares, 0), ptr.Deref(e.LendablePercent, 0), nil
	}
	limited := ptr.Deref(l.Spec.Limited, flowcontrolv1.LimitedPriorityLevelConfiguration{})
	return ptr.Deref(limited.NominalConcurrencyShares, 30), ptr.Deref(limited.LendablePercent, 0), limited.BorrowingLimitPercent
}

// want is how many seats a level would use.
type want struct {
	bounds
	least  float64 // it gets these in any case
	target float64
}

// lend gives each of some levels a number of seats, so that they are as many as there are, as far as bounds allow. Each gets the same
// fraction of what it would use, which is returned too.
func lend(seats int, wants []want) (each []float64, fraction float64) {
	sum := func(fraction float64) (sum float64) {
		for _, w := range wants {
			sum += w.at(fraction)
		}
		return sum
	}
	low, high := 0.0, 1.0
	for sum(high) < float64(seats) && high < 1e6 {
		high *= 2
	}
	for range 60 { // halved so often, it is exact
		if middle := (low + high) / 2; sum(middle) < float64(seats) {
			low = middle
		} else {
			high = middle
		}
	}
	for _, w := range wants {
		each = append(each, w.at(high))
	}
	return each, high
}

func (w want) at(fraction float64) float64 {
	return min(float64(w.upper), max(w.least, fraction*max(w.target, 0.001)))
}
