package authn

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// A connection is asked who it is once: the answer is remembered for the same authority and certificate, and while both
// are valid.
func TestConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		users, strangers := newAuthority(t), newAuthority(t)
		ours, others := &certificates{authorities: users.list}, &certificates{authorities: strangers.list}
		eve, bob := users.client(t, "eve"), users.client(t, "bob")
		ctx := WithConnection(t.Context())
		ask := func(c *certificates, of *http.Request) string {
			answer, ok, err := c.AuthenticateRequest(of.WithContext(ctx))
			if err != nil || !ok {
				return ""
			}
			return answer.User.GetName()
		}
		for range 2 {
			if got := ask(ours, requestWith(eve)); got != "eve" {
				t.Fatalf("got %q, want eve", got)
			}
		}
		if known := connectionOf(requestWith(eve).WithContext(ctx)).known.Load(); known == nil || known.leaf != eve {
			t.Fatal("who is connected is not remembered")
		}
		if got := ask(others, requestWith(eve)); got != "" {
			t.Errorf("an authority that has not vouched takes %q", got)
		}
		if got := ask(ours, requestWith(bob)); got != "bob" {
			t.Errorf("with another certificate: got %q, want bob", got)
		}
		if got := ask(ours, requestWith()); got != "" {
			t.Errorf("without a certificate: got %q", got)
		}
		if got := ask(ours, requestWith(eve)); got != "eve" {
			t.Errorf("got %q, want eve again", got)
		}
		time.Sleep(time.Hour + time.Second)
		if got := ask(ours, requestWith(eve)); got != "" {
			t.Errorf("after its certificate has ended the connection is still that of %q", got)
		}
	})
}

// A user that is remembered is that which is found out anew.
func TestConnectionRemembersAll(t *testing.T) {
	users := newAuthority(t)
	c, eve := &certificates{authorities: users.list}, users.client(t, "eve")
	way, ctx := union{ways: []authenticator.Request{c}}, WithConnection(t.Context())
	var answers []user.Info
	for _, r := range []*http.Request{requestWith(eve), requestWith(eve).WithContext(ctx), requestWith(eve).WithContext(ctx)} {
		answer, _, err := way.AuthenticateRequest(r)
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, answer.User)
	}
	for _, got := range answers[1:] {
		if diff := cmp.Diff(answers[0], got); diff != "" {
			t.Errorf("-without a connection +with it\n%s", diff)
		}
	}
}
