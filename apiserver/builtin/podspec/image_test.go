package podspec

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestPullPolicy(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("0123", 16)
	for image, want := range map[string]v1.PullPolicy{
		"a":                            v1.PullAlways,
		"a:latest":                     v1.PullAlways,
		"a:v1":                         v1.PullIfNotPresent,
		"a" + digest:                   v1.PullIfNotPresent,
		"a:latest" + digest:            v1.PullAlways,
		"localhost:5000/a":             v1.PullAlways,
		"Registry.example/a/b_c":       v1.PullAlways,
		"registry:5000/a/b:1.2-x":      v1.PullIfNotPresent,
		"[fd00::1]:5000/a":             v1.PullAlways,
		"":                             v1.PullIfNotPresent, // no reference at all
		"UPPER":                        v1.PullIfNotPresent,
		"a//b":                         v1.PullIfNotPresent,
		"a:":                           v1.PullIfNotPresent,
		"a b":                          v1.PullIfNotPresent,
		strings.Repeat("0123", 16):     v1.PullIfNotPresent, // an identifier, not a name
		"x/" + strings.Repeat("a", 64): v1.PullAlways,
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%q: got %s, want %s", image, got, want)
		}
	}
}
