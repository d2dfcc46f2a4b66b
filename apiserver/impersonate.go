package apiserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/audit"
	"github.com/skiff-k8s/skiff/apiserver/request"
)

// Headers by which a user asks to act as another one.
const (
	impersonateUser  = "Impersonate-User"
	impersonateGroup = "Impersonate-Group"
	impersonateUID   = "Impersonate-Uid"
	impersonateExtra = "Impersonate-Extra-"
)

// impersonate lets a user who may act as another one do so.
func (s *Server) impersonate(next http.Handler) http.Handler {
	i := impersonation{authorizer: s.config.Authorizer, modes: modes, attempts: newAttempts("attempts", "impersonation attempts", s.config.Metrics),
		checks: newAttempts("authorization_attempts", "authorization checks made for impersonation", s.config.Metrics)}
	if s.config.OneImpersonation {
		i.modes = slices.DeleteFunc(slices.Clone(modes), mode.limited)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wanted := wantedUser(r.Header)
		if wanted == nil {
			next.ServeHTTP(w, r)
			return
		}
		if wanted.Name == "" {
			refuse(w, r, apierrors.NewBadRequest(fmt.Sprintf("requested %#v without impersonating a user name", wanted)))
			return
		}
		become, how, err := i.become(r.Context(), wanted, access(r.Context()))
		if err != nil {
			refuse(w, r, err)
			return
		}
		audit.From(r.Context()).Impersonates(become, how)
		for name := range r.Header {
			if strings.HasPrefix(name, "Impersonate-") {
				r.Header.Del(name)
			}
		}
		next.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), become)))
	})
}

// wantedUser is who the headers ask to act as, nil if nobody.
func wantedUser(h http.Header) *user.DefaultInfo {
	u := &user.DefaultInfo{Name: h.Get(impersonateUser), UID: h.Get(impersonateUID), Groups: slices.Clone(h[impersonateGroup])}
	for name, values := range h {
		key, ok := strings.CutPrefix(name, impersonateExtra)
		if !ok {
			continue
		}
		key = strings.ToLower(key)
		if plain, err := url.PathUnescape(key); err == nil {
			key = plain
		}
		if u.Extra == nil {
			u.Extra = make(map[string][]string)
		}
		u.Extra[key] = append(u.Extra[key], values...)
	}
	if u.Name == "" && u.UID == "" && len(u.Groups) == 0 && len(u.Extra) == 0 {
		return nil
	}
	return u
}

// mode is a way to be allowed to act as somebody (KEP-5284). All but the last
// need two rights: impersonate:<name> for whom, and impersonate-on:<name>:<verb>
// for what is done in that name.
type mode struct {
	name    string
	applies func(wanted *user.DefaultInfo, by user.Info) bool
}

// modes are tried in this order, those that give away least first. The last is
// the verb impersonate, which gives all that the other user may do.
var modes = []mode{
	{"associated-node", func(wanted *user.DefaultInfo, by user.Info) bool {
		node, isNode := nodeOf(wanted.Name)
		_, _, err := serviceaccount.SplitUsername(by.GetName())
		return isNode && onlyName(wanted) && err == nil && slices.Equal(by.GetExtra()[serviceaccount.NodeNameKey], []string{node})
	}},
	{"arbitrary-node", func(wanted *user.DefaultInfo, _ user.Info) bool {
		_, isNode := nodeOf(wanted.Name)
		return isNode && onlyName(wanted)
	}},
	{"serviceaccount", func(wanted *user.DefaultInfo, _ user.Info) bool {
		_, _, err := serviceaccount.SplitUsername(wanted.Name)
		return err == nil && onlyName(wanted)
	}},
	{"user-info", func(wanted *user.DefaultInfo, _ user.Info) bool {
		_, isNode := nodeOf(wanted.Name)
		_, _, err := serviceaccount.SplitUsername(wanted.Name)
		return !isNode && err != nil
	}},
	{"", func(*user.DefaultInfo, user.Info) bool { return true }},
}

// onlyName reports whether nothing but the name is asked for.
func onlyName(u *user.DefaultInfo) bool {
	return u.UID == "" && len(u.Groups) == 0 && len(u.Extra) == 0
}

func nodeOf(name string) (node string, isNode bool) {
	node, ok := strings.CutPrefix(name, "system:node:")
	return node, ok && len(validation.NameIsDNSSubdomain(node, false)) == 0
}

// impersonation decides who may act as whom, and counts that.
type impersonation struct {
	authorizer       authorizer.Authorizer
	modes            []mode
	attempts, checks attempts
}

// become is the user that a request is served as which wants to be served
// as wanted, and the name of the mode that allows it. If none does, the error
// is that of the first that applies.
func (i impersonation) become(ctx context.Context, wanted *user.DefaultInfo, asked authorizer.AttributesRecord) (become user.Info, how string, err error) {
	began := time.Now()
	var first error
	for _, m := range i.modes {
		if !m.applies(wanted, asked.User) {
			continue
		}
		err := i.mayAll(ctx, m, m.needs(wanted, asked))
		if err == nil {
			i.attempts.count(m.label(), true, began)
			return m.become(wanted), m.name, nil
		}
		first = cmp.Or(first, err)
	}
	i.attempts.count("", false, began)
	return nil, "", first
}

// right is a right to ask the authorizer for, or one that nobody has.
type right struct {
	authorizer.AttributesRecord
	never string // why nobody has it
}

// mayAll returns the refusal of the first right in a mode that is not there.
func (i impersonation) mayAll(ctx context.Context, m mode, needed []right) error {
	for _, n := range needed {
		a := n.AttributesRecord
		if n.never != "" {
			return request.Forbidden(a, n.never)
		}
		began := time.Now()
		decision, reason, err := i.authorizer.Authorize(ctx, a)
		i.checks.count(m.label(), decision == authorizer.DecisionAllow, began)
		if decision == authorizer.DecisionAllow {
			continue
		}
		if err != nil {
			reason = strings.TrimSuffix(err.Error()+": "+reason, ": ")
		}
		return request.Forbidden(a, reason)
	}
	return nil
}

// limited reports whether a mode limits what may be done in the other's name.
func (m mode) limited() bool { return m.name != "" }

// label is the mode in metrics.
func (m mode) label() string { return cmp.Or(m.name, "legacy") }

// right is the right to one thing of another user's identity.
func (m mode) right(by user.Info, group, resource, name string) right {
	verb := "impersonate"
	if m.limited() {
		verb, group = "impersonate:"+m.name, identityGroup
	}
	return right{AttributesRecord: authorizer.AttributesRecord{
		User: by, Verb: verb, APIGroup: group, APIVersion: "v1", Resource: resource, Name: name, ResourceRequest: true,
	}}
}

// The API groups of the rights to act as somebody: names and groups have been
// in the core group before there was another.
const (
	coreGroup     = ""
	identityGroup = "authentication.k8s.io"
)

// needs are the rights to act as wanted in a mode, in the order asked for.
func (m mode) needs(wanted *user.DefaultInfo, asked authorizer.AttributesRecord) []right {
	by := asked.User
	var all []right
	if m.limited() {
		asked.Verb = "impersonate-on:" + m.name + ":" + asked.Verb
		all = append(all, right{AttributesRecord: asked})
	}
	all = append(all, m.rightToName(wanted.Name, by))
	if wanted.UID != "" {
		all = append(all, m.right(by, identityGroup, "uids", wanted.UID))
	}
	return slices.Concat(all, m.rightsToGroups(wanted.Groups, by), m.rightsToExtra(wanted.Extra, by))
}

func (m mode) rightToName(name string, by user.Info) right {
	if namespace, account, err := serviceaccount.SplitUsername(name); err == nil {
		a := m.right(by, coreGroup, "serviceaccounts", account)
		a.Namespace = namespace
		return a
	}
	node, isNode := nodeOf(name)
	switch {
	case isNode && m.name == "associated-node":
		return m.right(by, coreGroup, "nodes", "*") // whichever the account's pod is on
	case isNode && m.limited():
		return m.right(by, coreGroup, "nodes", node)
	}
	return m.right(by, coreGroup, "users", name)
}

func (m mode) rightsToGroups(groups []string, by user.Info) []right {
	var all []right
	for _, group := range groups {
		all = append(all, m.right(by, coreGroup, "groups", group))
	}
	if !m.limited() {
		return all
	}
	// These are refused before any other group is asked for.
	for _, refused := range []struct{ name, why string }{
		{"", "impersonating the empty string group is not allowed"},
		{user.SystemPrivilegedGroup, "impersonating the system:masters group is not allowed"},
	} {
		if i := slices.Index(groups, refused.name); i >= 0 {
			all[i].never = refused.why
			return all[i : i+1]
		}
	}
	return all
}

func (m mode) rightsToExtra(extra map[string][]string, by user.Info) []right {
	var all []right
	for _, key := range slices.Sorted(maps.Keys(extra)) {
		if err := checkExtra(key, extra[key]); err != nil && m.limited() {
			never := m.right(by, identityGroup, "userextras", "")
			never.never = err.Error()
			return []right{never}
		}
		for _, value := range extra[key] {
			a := m.right(by, identityGroup, "userextras", value)
			a.Subresource = key
			all = append(all, a)
		}
	}
	return all
}

// checkExtra says what is wrong with an extra field, for modes that are strict
// about it.
func checkExtra(key string, values []string) error {
	if key == "" {
		return errors.New("impersonating the empty string key in extra is not allowed")
	}
	if err := utilvalidation.IsDomainPrefixedPath(field.NewPath("extra", "key"), key).ToAggregate(); err != nil {
		return fmt.Errorf("impersonating an invalid key in extra is not allowed: %w", err)
	}
	switch {
	case len(values) == 0:
		return errors.New("impersonating empty values in extra is not allowed")
	case slices.Contains(values, ""):
		return errors.New("impersonating the empty string value in extra is not allowed")
	}
	return nil
}

// become is wanted with the groups that follow from who it is.
func (m mode) become(wanted *user.DefaultInfo) user.Info {
	u := *wanted
	u.Groups = slices.Clone(wanted.Groups)
	if namespace, _, err := serviceaccount.SplitUsername(u.Name); err == nil && len(u.Groups) == 0 {
		u.Groups = serviceaccount.MakeGroupNames(namespace)
	}
	if _, isNode := nodeOf(u.Name); isNode && m.limited() {
		u.Groups = []string{user.NodesGroup}
	}
	switch {
	case u.Name == user.Anonymous && !slices.Contains(u.Groups, user.AllUnauthenticated):
		u.Groups = append(u.Groups, user.AllUnauthenticated)
	case u.Name != user.Anonymous && !slices.Contains(u.Groups, user.AllAuthenticated) && !slices.Contains(u.Groups, user.AllUnauthenticated):
		u.Groups = append(u.Groups, user.AllAuthenticated)
	}
	return &u
}
