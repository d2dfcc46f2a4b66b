package quantile

import (
	"testing"
	"time"
)

func TestOf(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, c := range []struct {
		name string
		of   []time.Duration
		q    float64
		want time.Duration
	}{
		{"of none", nil, 0.5, 0},
		{"of one", []time.Duration{7}, 0.99, 7},
		{"median of two is the lower", []time.Duration{1, 2}, 0.5, 1},
		{"99 of 100", hundred, 0.99, 99},
		{"all", hundred, 1, 100},
		{"between ranks goes up", []time.Duration{1, 2, 3}, 0.5, 2},
	} {
		if got := Of(c.of, c.q); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}
