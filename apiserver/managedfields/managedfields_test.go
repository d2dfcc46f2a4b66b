package managedfields

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestName(t *testing.T) {
	for name, c := range map[string]struct{ manager, agent, want string }{
		"given":       {"me", "kubectl/v1", "me"},
		"program":     {"", "kubectl/v1.36 (linux/amd64)", "kubectl"},
		"no slash":    {"", "agent", "agent"},
		"unprintable": {"", "a\tb\x00c/1", "abc"},
		"long":        {"", strings.Repeat("ä", 100), strings.Repeat("ä", 64)},
		"none":        {"", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Name(c.manager, c.agent); got != c.want {
				t.Errorf("Name(%q, %q) = %q, want %q", c.manager, c.agent, got, c.want)
			}
		})
	}
}

func TestKeepTimes(t *testing.T) {
	object := func(second int64, manager, value string) *corev1.ConfigMap {
		at := metav1.Unix(second, 0)
		return &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "x", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: manager, Time: &at}}},
			Data:       map[string]string{"k": value},
		}
	}
	old := object(1, "m", "v")
	for name, c := range map[string]struct {
		obj  *corev1.ConfigMap
		want int64
	}{
		"only times differ": {object(2, "m", "v"), 1},
		"data differs":      {object(2, "m", "w"), 2},
		"manager differs":   {object(2, "n", "v"), 2},
	} {
		t.Run(name, func(t *testing.T) {
			KeepTimes(c.obj, old)
			if got := c.obj.ManagedFields[0].Time.Time; !got.Equal(time.Unix(c.want, 0)) {
				t.Errorf("time = %v, want %v", got, time.Unix(c.want, 0))
			}
		})
	}
}
