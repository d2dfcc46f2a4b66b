package rest

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
)

// When kube-apiserver sends bookmarks.
func TestBookmarkAfter(t *testing.T) {
	for _, c := range []struct {
		name        string
		every, left time.Duration
		want        time.Duration
	}{
		{"regularly", time.Minute, time.Hour, time.Minute},
		{"two seconds before the end", time.Minute, 30 * time.Second, 28 * time.Second},
		{"one second before the end", time.Minute, 2 * time.Second, time.Second},
		{"not at the end", time.Minute, time.Second, time.Second + time.Minute},
		{"often", time.Millisecond, time.Second, time.Millisecond},
	} {
		if got := bookmarkAfter(c.every, c.left); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestWatchTime(t *testing.T) {
	h := &Handler{MinWatch: time.Hour}
	for _, c := range []struct {
		name        string
		seconds     *int64
		least, most time.Duration
	}{
		{"no wish", nil, time.Hour, 2 * time.Hour},
		{"no limit", new(int64(0)), time.Hour, 2 * time.Hour},
		{"a wish", new(int64(5)), 5 * time.Second, 5 * time.Second},
		{"over at once", new(int64(-1)), -time.Second, -time.Second},
	} {
		if got := h.watchTime(&internalversion.ListOptions{TimeoutSeconds: c.seconds}); got < c.least || got > c.most {
			t.Errorf("%s: got %v, want %v to %v", c.name, got, c.least, c.most)
		}
	}
}
