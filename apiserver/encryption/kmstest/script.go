package kmstest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Server is an API server that a script is put to.
type Server interface {
	Do(method, path, body string) (code int, answer string)
	Restart()
}

// The servers that answer a script. What Skiff answers stands in it only where
// it differs.
const (
	Kubernetes = ""
	Skiff      = "Skiff: "
)

// RunScript puts a script to a server whose secrets are encrypted by p, and
// returns it with the answers of that server in place of those that stand in it.
//
//	# …                          is a comment
//	start plugin, stop plugin    what happens to p
//	restart server
//	until CODE GET PATH          is asked until it has the code
//	METHOD PATH BODY             is asked
//		ANSWER
//		Skiff: ANSWER
func RunScript(t testing.TB, script, who string, p *Plugin, s Server) string {
	t.Helper()
	var out []string
	lines := strings.Split(script, "\n")
	for len(lines) > 0 {
		line := lines[0]
		answers := map[string]string{}
		for lines = lines[1:]; len(lines) > 0 && strings.HasPrefix(lines[0], "\t"); lines = lines[1:] {
			answer, ours := strings.CutPrefix(lines[0][1:], Skiff)
			answers[map[bool]string{true: Skiff, false: Kubernetes}[ours]] = answer
		}
		out = append(out, line)
		answer, asked := play(t, line, p, s)
		if !asked {
			continue
		}
		answers[who] = answer
		out = append(out, "\t"+answers[Kubernetes])
		if ours := answers[Skiff]; ours != "" && ours != answers[Kubernetes] {
			out = append(out, "\t"+Skiff+ours)
		}
	}
	return strings.Join(out, "\n")
}

// play does what a line says; asked: it is a question.
func play(t testing.TB, line string, p *Plugin, s Server) (answer string, asked bool) {
	t.Helper()
	switch words := strings.SplitN(line, " ", 3); {
	case line == "" || words[0] == "#":
	case line == "start plugin":
		p.Start(t)
	case line == "stop plugin":
		p.Stop()
	case line == "restart server":
		s.Restart()
	case words[0] == "until":
		until(t, s, words[1], strings.TrimPrefix(words[2], "GET "))
	default:
		return told(s.Do(words[0], words[1], strings.Join(words[2:], ""))), true
	}
	return "", false
}

func until(t testing.TB, s Server, code, path string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		got, answer := s.Do(http.MethodGet, path, "")
		if strconv.Itoa(got) == code {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still %d: %s", path, got, answer)
		}
	}
}

// told is what of an answer is the same whenever it is given.
func told(code int, answer string) string {
	if code/100 == 2 {
		return strconv.Itoa(code)
	}
	if _, report, ok := strings.Cut(answer, "kms-providers "); ok {
		result, _, _ := strings.Cut(report, "\n")
		return fmt.Sprintf("%d kms-providers %s", code, result) // of all checks
	}
	if strings.HasPrefix(answer, "[+]ping") {
		return strconv.Itoa(code)
	}
	var status struct{ Reason, Message string }
	if err := json.Unmarshal([]byte(answer), &status); err == nil {
		answer = status.Reason + ": " + status.Message
	}
	for _, c := range changing {
		answer = c.is.ReplaceAllString(answer, c.stands)
	}
	return fmt.Sprintf("%d %s", code, strings.TrimSpace(answer))
}

var changing = []struct {
	is     *regexp.Regexp
	stands string
}{
	{regexp.MustCompile(`/\S*/s(["\s:])`), "SOCKET$1"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-][\d:]+)`), "TIME"},
	{regexp.MustCompile(`sha256:[0-9a-f]+`), "HASH"},
}

// ReadScript reads a script.
func ReadScript(t testing.TB, path string) string {
	t.Helper()
	script, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(script)
}
