package fairness_test

import (
	"fmt"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/bootstrap"
	"github.com/skiff-k8s/skiff/apiserver/fairness"
)

func who(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
}

func defaults(total int) *fairness.Slots {
	return fairness.NewSlots(total, bootstrap.PriorityLevels(), bootstrap.FlowSchemas())
}

func lease(u user.Info, verb string) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{User: u, Verb: verb, APIGroup: "coordination.k8s.io", Resource: "leases", Namespace: "kube-system", ResourceRequest: true}
}

func TestLevelsOfRequests(t *testing.T) {
	node, account := who("system:node:n", user.NodesGroup), who("system:serviceaccount:a:b", "system:serviceaccounts")
	pods := func(u user.Info) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{User: u, Verb: "create", Resource: "pods", Namespace: "a", ResourceRequest: true}
	}
	path := func(u user.Info, path string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{User: u, Verb: "get", Path: path}
	}
	status := authorizer.AttributesRecord{User: node, Verb: "patch", Resource: "nodes", Subresource: "status", Name: "n", ResourceRequest: true}
	for name, c := range map[string]struct {
		request authorizer.AttributesRecord
		want    string
	}{
		"administrators":                   {pods(who("root", user.SystemPrivilegedGroup)), "exempt"},
		"probes of anybody":                {path(&user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}, "/readyz"), "exempt"},
		"other paths":                      {path(who("me"), "/openapi/v2"), "global-default"},
		"a part of a health check":         {path(who("me"), "/readyz/ping"), "global-default"},
		"the lease of a node":              {lease(node, "update"), "node-high"},
		"the status of a node":             {status, "node-high"},
		"other requests of a node":         {pods(node), "system"},
		"paths a node asks for":            {path(node, "/version"), "system"},
		"leader election":                  {lease(who(user.KubeScheduler), "update"), "leader-election"},
		"leader election of an add-on":     {lease(who("system:serviceaccount:kube-system:x", "system:serviceaccounts"), "get"), "leader-election"},
		"a verb leader election has not":   {lease(who(user.KubeScheduler), "list"), "workload-high"},
		"controllers":                      {pods(who(user.KubeControllerManager)), "workload-high"},
		"an account":                       {pods(account), "workload-low"},
		"an account by the name of system": {pods(who("system:serviceaccount:kube-system:x", "system:serviceaccounts")), "workload-high"},
		"a user":                           {pods(who("me")), "global-default"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := defaults(600).Level(c.request); got != c.want {
				t.Errorf("level = %q, want %q", got, c.want)
			}
		})
	}
}

// TestSharesThatNobodyTakes lets strangers take all they can.
func TestSharesThatNobodyTakes(t *testing.T) {
	for _, total := range []int{1, 10, 600} {
		t.Run(fmt.Sprint(total), func(t *testing.T) {
			s := defaults(total)
			node := lease(who("system:node:n", user.NodesGroup), "update")
			taken := take(s, who("first"), 2*total)
			if left := take(s, who("second"), 1); total == 600 && len(left) == 0 {
				t.Error("one user took what all others need")
			}
			for i := range 10 {
				taken = append(taken, take(s, who(fmt.Sprint("user-", i)), 2*total)...)
				taken = append(taken, take(s, who(fmt.Sprint("system:serviceaccount:a:", i), "system:serviceaccounts"), 2*total)...)
			}
			if len(take(s, who("late"), 1)) > 0 {
				t.Error("slots are left after all were taken")
			}
			for name, needed := range map[string]authorizer.AttributesRecord{
				"a node": node, "a node's pods": {User: node.User, Verb: "get", Resource: "pods", Namespace: "a", ResourceRequest: true},
				"leader election": lease(who(user.KubeControllerManager), "update"),
				"the controllers": {User: who(user.KubeControllerManager), Verb: "create", Resource: "pods", Namespace: "a", ResourceRequest: true},
				"the scheduler":   {User: who(user.KubeScheduler), Verb: "create", Resource: "pods", Subresource: "binding", Namespace: "a", ResourceRequest: true},
			} {
				release, ok := s.Take(needed)
				if !ok {
					t.Errorf("%s: no slot", name)
					continue
				}
				release()
			}
			for _, release := range taken {
				release()
				release() // a second time gives back nothing
			}
			if again := take(s, who("first"), 2*total); total == 600 && len(again) < total/4 {
				t.Errorf("%d slots after all were given back", len(again))
			}
		})
	}
}

func take(s *fairness.Slots, u user.Info, most int) (taken []func()) {
	for range most {
		release, ok := s.Take(authorizer.AttributesRecord{User: u, Verb: "create", Resource: "pods", Namespace: "a", ResourceRequest: true})
		if !ok {
			return taken
		}
		taken = append(taken, release)
	}
	return taken
}
