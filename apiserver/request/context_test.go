package request

import (
	"errors"
	"maps"
	"testing"
)

func TestAnnotate(t *testing.T) {
	ctx := WithNotes(t.Context(), nil)
	for _, a := range [][2]string{{"example.com/a", "first"}, {"example.com/a", "second"}, {"nodomain", "x"}, {"example.com/a/b", "x"},
		{"example.com/bad key", "x"}, {"Bad_Domain/a", "x"}, {"/a", "x"}, {"example.com/", "x"}, {"", "x"}} {
		Annotate(ctx, a[0], a[1])
	}
	if got, want := Annotations(ctx), map[string]string{"example.com/a": "first"}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestBegin: what is found out of a request once needs no other context, and what is found out again is another one's.
func TestBegin(t *testing.T) {
	first, second := &Info{Name: "first"}, &Info{Name: "second"}
	ctx := Begin(t.Context(), "id")
	if From(ctx) != nil || AuditID(ctx) != "id" {
		t.Errorf("at first it is about %v, with the id %q", From(ctx), AuditID(ctx))
	}
	informed := With(ctx, first)
	failing, failure := WithFailure(informed)
	noting := WithNotes(failing, nil)
	if informed != ctx || failing != ctx || noting != ctx || From(ctx) != first {
		t.Errorf("there are several contexts, or it is about %v", From(ctx))
	}
	again := With(ctx, second)
	if From(ctx) != first || From(again) != second || AuditID(again) != "id" {
		t.Errorf("it is about %v, the other about %v with the id %q", From(ctx), From(again), AuditID(again))
	}
	notingAgain := WithNotes(ctx, nil)
	Annotate(notingAgain, "example.com/a", "other")
	if got := Annotations(ctx); len(got) > 0 {
		t.Errorf("it has the notes of another: %v", got)
	}
	err := errors.New("x")
	Fail(again, err)
	if !errors.Is(*failure, err) {
		t.Error("what fails under another Info is not told")
	}
	if other := Begin(ctx, "other"); From(other) != nil || AuditID(other) != "other" || AuditID(ctx) != "id" {
		t.Errorf("a request within it has its Info or its id: %v, %q", From(other), AuditID(other))
	}
}

// TestDecided: what authorization decided is in the annotations, and stays.
func TestDecided(t *testing.T) {
	for _, c := range []struct {
		name             string
		decision, reason string
		want             map[string]string
	}{
		{"allowed", "allow", "RBAC: x", map[string]string{decisionNote: "allow", reasonNote: "RBAC: x", "example.com/a": "b"}},
		{"without a reason", "forbid", "", map[string]string{decisionNote: "forbid", reasonNote: "", "example.com/a": "b"}},
		{"not decided", "", "internal error", map[string]string{reasonNote: "internal error", "example.com/a": "b"}},
	} {
		ctx := WithNotes(t.Context(), nil)
		Decided(ctx, c.decision, c.reason)
		Decided(ctx, "later", "later")
		Annotate(ctx, reasonNote, "of a webhook")
		Annotate(ctx, "example.com/a", "b")
		if got := Annotations(ctx); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	Decided(t.Context(), "allow", "") // where nothing is noted
}
