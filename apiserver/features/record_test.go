//go:build oracle

package features_test

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/oracletest"
)

// TestRecord writes the gates that kube-apiserver knows to gates.txt, what it says of wrong flags to
// testdata/refusals.json, and what it answers with some of its APIs off to testdata/answers.json.
func TestRecord(t *testing.T) {
	etcd := oracletest.Etcd(t)
	gates := gatesOf(t, oracletest.Start(t, users, "--authorization-mode", "RBAC"))
	var opposite []string
	for name, g := range gates {
		if !strings.HasPrefix(name, "All") {
			opposite = append(opposite, fmt.Sprintf("%s=%t", name, !g.on))
		}
	}
	locked := oracletest.Refusal(t, etcd, "--feature-gates", strings.Join(opposite, ","))
	for _, m := range regexp.MustCompile(`feature gate (\w+) to \w+, feature is locked`).FindAllStringSubmatch(locked, -1) {
		g := gates[m[1]]
		g.locked = true
		gates[m[1]] = g
	}
	var lines []string
	for name, g := range gates {
		lines = append(lines, g.line(name))
	}
	slices.Sort(lines)
	keep(t, "gates.txt", strings.Join(lines, ""))

	said := make(map[string]string)
	for _, flag := range refused {
		said[flag] = oracletest.Refusal(t, etcd, strings.Fields(flag)...)
	}
	keep(t, "testdata/refusals.json", oracletest.Encode(t, said))
	s := oracletest.Start(t, users, append(chosen, "--authorization-mode", "RBAC")...)
	keep(t, "testdata/answers.json", oracletest.Encode(t, ask(t, s.Client, s.Base)))
}

type gate struct {
	stage      string
	on, locked bool
}

func (g gate) line(name string) string {
	line := fmt.Sprintf("%s %s %t", name, g.stage, g.on)
	if g.locked {
		line += " locked"
	}
	return line + "\n"
}

// gatesOf are those that a server has by default, from its metrics.
func gatesOf(t *testing.T, s *oracletest.Server) map[string]gate {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Base+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer admin")
	answer, err := s.Client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	sample := regexp.MustCompile(`^kubernetes_feature_enabled\{name="(\w+)",stage="(\w*)"\} ([01])$`)
	found := make(map[string]gate)
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if m := sample.FindStringSubmatch(lines.Text()); m != nil {
			stage := m[2]
			if stage == "" {
				stage = "GA"
			}
			found[m[1]] = gate{stage: stage, on: m[3] == "1"}
		}
	}
	if len(found) == 0 {
		t.Fatal("there are no gates in the metrics")
	}
	return found
}

func keep(t *testing.T, name, content string) {
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
