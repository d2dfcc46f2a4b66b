package cluster_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
)

// TestDualStack and TestIPv6 run clusters of both families and of IPv6 alone.
func TestDualStack(t *testing.T) {
	testFamilies(t, 2, "dual", corev1.IPv4Protocol, corev1.IPv6Protocol)
}

func TestIPv6(t *testing.T) { testFamilies(t, 1, "ipv6", corev1.IPv6Protocol) }

func testFamilies(t *testing.T, nodes int, script string, families ...corev1.IPFamily) {
	images := exampleImages(t)
	rules := hostRules(t)
	c := clustertest.NewOf(t, nodes, families...)
	c.Start(t)
	c.Import(t, images...)
	t.Run("script", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Files: []string{filepath.Join("testdata", "families", script+".txtar")},
			Setup: func(env *testscript.Env) error {
				env.Setenv("KUBECONFIG", c.Kubeconfig())
				env.Setenv("PATH", clustertest.Tools(t)+":"+os.Getenv("PATH"))
				return nil
			},
			Cmds: map[string]func(*testscript.TestScript, bool, []string){"eventually": eventually},
		})
	})
	c.Stop(t)
	if left := c.Traces(t); left != "" {
		t.Errorf("left on the machine:\n%s", left)
	}
	if after := hostRules(t); after != rules {
		t.Errorf("isolated nodes changed the host's rules:\n%s\nbefore:\n%s", after, rules)
	}
}
