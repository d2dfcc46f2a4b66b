package rest

import (
	"strings"

	"github.com/skiff-k8s/skiff/apiserver/heavy"
)

// compared is about how many nanoseconds a strategic merge takes to compare
// two elements of lists by their keys.
const compared = 100

// strategicCost is the cost of a strategic merge of changes into before: each
// element of a list that changes is looked for among all, and so is each that
// was there, to put them in order.
func strategicCost(before, changes any) heavy.Cost {
	return compared * pairs(before, changes, 0)
}

// pairs is the sum of the squares of the lengths of the lists that are merged.
// A list in an element has at least the length that any list has in an element
// that the element might be merged into, which is least.
func pairs(before, changes any, least int) heavy.Cost {
	var sum heavy.Cost
	switch changes := changes.(type) {
	case map[string]any:
		old, _ := before.(map[string]any)
		for key, change := range changes {
			_, of, directive := strings.Cut(key, "/")
			if !directive {
				of = key
			}
			sum += pairs(old[of], change, least)
		}
	case []any:
		old, _ := before.([]any)
		sum = heavy.Squared(max(len(old), least) + len(changes))
		within := least
		for _, element := range old {
			within = max(within, longest(element))
		}
		for _, element := range changes {
			sum += pairs(nil, element, within)
		}
	}
	return sum
}

// longest is the length of the longest list in value.
func longest(value any) int {
	n := 0
	switch value := value.(type) {
	case map[string]any:
		for _, v := range value {
			n = max(n, longest(v))
		}
	case []any:
		n = len(value)
		for _, v := range value {
			n = max(n, longest(v))
		}
	}
	return n
}
