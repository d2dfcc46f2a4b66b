package rest

import (
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/heavy"
)

func TestStrategicCost(t *testing.T) {
	list := func(n int) []any { return make([]any, n) }
	object := func(key string, value any) map[string]any { return map[string]any{key: value} }
	for name, c := range map[string]struct {
		before, changes map[string]any
		want            heavy.Cost
	}{
		"no list that changes":   {object("a", list(100)), object("b", "x"), 0},
		"a new list":             {nil, object("a", list(10)), 100},
		"a list that grows":      {object("a", list(90)), object("a", list(10)), 100 * 100},
		"the order of a list":    {object("a", list(90)), object("$setElementOrder/a", list(10)), 100 * 100},
		"a value for a list":     {object("a", list(90)), object("a", "x"), 0},
		"a list deeper down":     {object("a", object("b", list(5))), object("a", object("b", list(5))), 100},
		"a list in an element":   {object("a", []any{object("b", list(90))}), object("a", []any{object("b", list(10))}), 4 + 100*100},
		"a list in a new kind":   {nil, object("a", []any{object("b", list(10))}), 1 + 100},
		"maps cost no more here": {object("a", map[string]any{"x": 1, "y": 2}), object("a", map[string]any{"z": 3}), 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strategicCost(c.before, c.changes); got != c.want*compared {
				t.Errorf("cost = %d pairs, want %d", got/compared, c.want)
			}
		})
	}
}
