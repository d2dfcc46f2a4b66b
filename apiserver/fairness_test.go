package apiserver_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"
	coordinationv1 "k8s.io/api/coordination/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// request asks for a path as a user and returns the answer with its body read.
func request(t *testing.T, s *apiserver.Server, path, name string, groups ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://in-process"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := apiservertest.Config(s, name, groups...).Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(body)
}

// TestFlowHeaders: an answer names the objects by which its request was limited, also one that says no.
func TestFlowHeaders(t *testing.T) {
	s := apiservertest.Start(t, nil)
	flows := kubernetes.NewForConfigOrDie(apiservertest.Config(s, "admin")).FlowcontrolV1()
	for _, c := range []struct {
		path, user, schema, level string
		groups                    []string
		code                      int
	}{
		{"/api/v1/namespaces/default", "admin", "exempt", "exempt", nil, http.StatusOK},
		{"/api/v1/namespaces", "bob", "global-default", "global-default", []string{"devs"}, http.StatusForbidden},
		{"/api/v1/nodes/n", "system:node:n", "system-node-high", "node-high", []string{"system:nodes"}, http.StatusNotFound},
		{"/version", "bob", "global-default", "global-default", []string{"devs"}, http.StatusOK},
	} {
		schema, err := flows.FlowSchemas().Get(t.Context(), c.schema, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		level, err := flows.PriorityLevelConfigurations().Get(t.Context(), c.level, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := [2]string{string(schema.UID), string(level.UID)}
		var got [2]string
		eventually(t, "the status or header is right", func() bool { // the objects are known soon after they are made
			answer, _ := request(t, s, c.path, c.user, c.groups...)
			if answer.StatusCode != c.code {
				t.Fatalf("%s: %d", c.path, answer.StatusCode)
			}
			got = [2]string{answer.Header.Get("X-Kubernetes-Pf-Flowschema-Uid"), answer.Header.Get("X-Kubernetes-Pf-Prioritylevel-Uid")}
			return got == want
		})
	}
}

// TestSeatsByFlags: kube-apiserver's flags say how many requests are served at once, and are refused in its words.
func TestSeatsByFlags(t *testing.T) {
	for _, c := range []struct {
		args    []string
		nominal int // seats of the level of ordinary users, which has 20 of 245 shares
		refused string
	}{
		{nil, 49, ""},
		{[]string{"--max-requests-inflight=40"}, 20, ""},
		{[]string{"--max-requests-inflight=40", "--max-mutating-requests-inflight=20"}, 5, ""},
		{[]string{"--max-requests-inflight=0", "--max-mutating-requests-inflight=490"}, 40, ""},
		{[]string{"--max-requests-inflight=-1"}, 0, "--max-requests-inflight can not be negative value"},
		{[]string{"--max-mutating-requests-inflight=-2"}, 0, "--max-mutating-requests-inflight can not be negative value"},
		{[]string{"--max-requests-inflight=0", "--max-mutating-requests-inflight=0"}, 0,
			"invalid configuration: MaxRequestsInFlight=0 and MaxMutatingRequestsInFlight=0; they must add up to something positive"},
	} {
		var settings apiserver.Settings
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		settings.AddFlags(flags)
		if err := flags.Parse(c.args); err != nil {
			t.Fatal(err)
		}
		if c.refused != "" {
			if _, err := apiserver.Standard(t.Context(), apiserver.Options{Settings: settings}); err == nil || err.Error() != c.refused {
				t.Errorf("%v: got %v, want %s", c.args, err, c.refused)
			}
			continue
		}
		s := apiservertest.Start(t, func(o *apiserver.Options) { o.Limits = settings.Limits })
		if got := gauge(t, s, "apiserver_flowcontrol_nominal_limit_seats", `priority_level="global-default"`); got != c.nominal {
			t.Errorf("%v: global-default has %d seats, want %d", c.args, got, c.nominal)
		}
	}
}

// TestDanglingSchemas: a schema says whether its level is there, and counts as soon as it is.
func TestDanglingSchemas(t *testing.T) {
	s := apiservertest.Start(t, nil)
	flows := kubernetes.NewForConfigOrDie(apiservertest.Config(s, "admin")).FlowcontrolV1()
	schema := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "mine"}, MatchingPrecedence: 50,
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects:         []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "bob"}}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}},
		}},
	}}
	made, err := flows.FlowSchemas().Create(t.Context(), schema, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	says := func(status flowcontrolv1.ConditionStatus, reason, message string) {
		t.Helper()
		eventually(t, "the status or header is right", func() bool {
			now, err := flows.FlowSchemas().Get(t.Context(), "mine", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			c := now.Status.Conditions
			return len(c) == 1 && c[0].Type == flowcontrolv1.FlowSchemaConditionDangling && c[0].Status == status && c[0].Reason == reason && c[0].Message == message
		})
	}
	says("True", "NotFound", `This FlowSchema references the PriorityLevelConfiguration object named "mine" but there is no such object`)
	level := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{LimitResponse: flowcontrolv1.LimitResponse{Type: "Reject"}}}}
	if _, err := flows.PriorityLevelConfigurations().Create(t.Context(), level, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	says("False", "Found", `This FlowSchema references the PriorityLevelConfiguration object named "mine" and it exists`)
	if answer, _ := request(t, s, "/version", "bob", "devs"); answer.Header.Get("X-Kubernetes-Pf-Flowschema-Uid") != string(made.UID) {
		t.Errorf("a request of bob is of schema %s", answer.Header.Get("X-Kubernetes-Pf-Flowschema-Uid"))
	}
	if err := flows.PriorityLevelConfigurations().Delete(t.Context(), "mine", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	says("True", "NotFound", `This FlowSchema references the PriorityLevelConfiguration object named "mine" but there is no such object`)
}

// TestFlood has clients hold all seats that ordinary users can have: more of them get 429, and nodes, controllers and administrators
// are served meanwhile.
func TestFlood(t *testing.T) {
	reached, open := make(chan struct{}, 1000), make(chan struct{})
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.Limits = apiserver.Limits{MaxRequests: 100}
	})
	defer close(open)
	// Bodies that do not come hold requests at their seats.
	for n := range 400 {
		go func() {
			body := &held{reached: reached, open: open}
			r, _ := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodPost, "https://in-process/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
			r.Header.Set("Content-Type", "application/json")
			answer, err := apiservertest.Config(s, fmt.Sprint("user-", n%3), "devs").Transport.RoundTrip(r)
			if err == nil {
				io.Copy(io.Discard, answer.Body) // the server's end may come first
				answer.Body.Close()
			}
		}()
	}
	for range 9 { // what global-default has of 100 seats
		<-reached
	}
	eventually(t, "others wait", func() bool { return waiting(t, s) > 100 })
	for name, group := range map[string]string{"system:node:n": "system:nodes", "system:kube-controller-manager": "others", "system:kube-scheduler": "others", "admin": "system:masters"} {
		answer, _ := request(t, s, "/api/v1/nodes/n", name, group)
		if answer.StatusCode != http.StatusNotFound && answer.StatusCode != http.StatusForbidden {
			t.Errorf("%s got %d", name, answer.StatusCode)
		}
	}
	answer, body := request(t, s, "/version?timeout=2s", "user-1", "devs")
	if answer.StatusCode != http.StatusTooManyRequests || answer.Header.Get("Retry-After") != "1" || body != "Too many requests, please try again later.\n" {
		t.Errorf("one of those who flood got %d, %v: %s", answer.StatusCode, answer.Header, body)
	}
	config := apiservertest.Config(s, "user-2", "devs")
	config.Timeout = 2 * time.Second // is sent along
	if err := kubernetes.NewForConfigOrDie(config).CoreV1().RESTClient().Get().AbsPath("/version").MaxRetries(0).Do(t.Context()).Error(); !apierrors.IsTooManyRequests(err) {
		t.Errorf("client-go understood %v", err)
	}
	for page, want := range map[string]string{
		"dump_priority_levels": "global-default,    ", "dump_queues": "global-default,    127,", "dump_requests": "global-default,    global-default,",
		"dump_requests?includeRequestDetails=1": "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
	} {
		answer, body := request(t, s, "/debug/api_priority_and_fairness/"+page, "admin")
		if answer.StatusCode != http.StatusOK || !strings.HasPrefix(body, "PriorityLevelName, ") || !strings.Contains(body, want) {
			t.Errorf("%s: %d, %s", page, answer.StatusCode, body[:min(len(body), 2000)])
		}
	}
	if answer, _ := request(t, s, "/debug/api_priority_and_fairness/dump_requests", "system:node:n", "system:nodes"); answer.StatusCode != http.StatusForbidden {
		t.Errorf("a node may see what others ask: %d", answer.StatusCode)
	}
}

// held is a body that does not come.
type held struct {
	reached chan struct{}
	open    chan struct{}
	once    sync.Once
}

func (h *held) Read([]byte) (int, error) {
	h.once.Do(func() { h.reached <- struct{}{} })
	<-h.open
	return 0, io.EOF
}

func (h *held) Close() error { return nil }

// TestListsKeepTheirSeats has ordinary users ask for lists that they do not read: those that are being written keep all seats these users can have, and
// give them on when they are read. A node renews its lease meanwhile.
func TestListsKeepTheirSeats(t *testing.T) {
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.Limits = apiserver.Limits{MaxRequests: 100, RequestTimeout: time.Hour} // who waits is not refused
	})
	admin := kubernetes.NewForConfigOrDie(apiservertest.Config(s, "admin", "system:masters"))
	for n := range 150 { // a second seat is for those beyond 100
		c := configMap(fmt.Sprint("c-", n))
		c.Data = map[string]string{"x": strings.Repeat("x", 10_000)}
		if _, err := admin.CoreV1().ConfigMaps("default").Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	const lists, wide, users = 10, 2, 2 // each user can have half of the seats
	for n := range users {
		grant(t, s, fmt.Sprint("user-", n), []rbacv1.PolicyRule{{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}})
	}
	begun := make(chan io.ReadCloser, lists)
	ctx, end := context.WithCancel(t.Context())
	var asked sync.WaitGroup
	for n := range lists {
		asked.Go(func() {
			api := kubernetes.NewForConfigOrDie(apiservertest.Config(s, fmt.Sprint("user-", n%users), "devs")).CoreV1().RESTClient()
			body, err := api.Get().Namespace("default").Resource("configmaps").Stream(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			begun <- body
		})
	}
	defer func() {
		end() // whatever is not read
		asked.Wait()
	}()
	atOnce := 9 / wide // global-default has 9 of 100 seats
	eventually(t, "all others wait", func() bool { return waiting(t, s) == lists-atOnce })
	if seats := gauge(t, s, "apiserver_flowcontrol_current_executing_seats", `priority_level="global-default"`); seats != atOnce*wide {
		t.Errorf("%d lists that are being written have %d seats", atOnce, seats)
	}
	node := kubernetes.NewForConfigOrDie(apiservertest.Config(s, "system:node:n", "system:nodes")).CoordinationV1().Leases("kube-node-lease")
	lease, err := node.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
	if _, err := node.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	for range lists { // each that is read lets another begin
		body := <-begun
		if _, err := io.Copy(io.Discard, body); err != nil {
			t.Error(err)
		}
		body.Close()
	}
}
