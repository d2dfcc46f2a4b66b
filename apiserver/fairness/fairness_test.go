package fairness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// limited is a level; without queues it rejects.
func limited(name string, shares, lendable, queues, hand, length int32) *flowcontrolv1.PriorityLevelConfiguration {
	l := &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &shares, LendablePercent: &lendable,
		LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}}
	if queues > 0 {
		l.LimitResponse = flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue,
			Queuing: &flowcontrolv1.QueuingConfiguration{Queues: queues, HandSize: hand, QueueLengthLimit: length}}
	}
	return &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "level"},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: l}}
}

var exempt = &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "exempt"},
	Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementExempt}}

// flowing is a schema for a group, "*" for everybody, whose users are flows of their own.
func flowing(name, level, group string, precedence int32) *flowcontrolv1.FlowSchema {
	return &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "schema"}, Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level}, MatchingPrecedence: precedence,
		DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects:         []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: group}}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}},
		}},
	}}
}

// controller has one level for everybody but masters.
func controller(seats int, l *flowcontrolv1.PriorityLevelConfiguration) *Controller {
	return New(Config{Seats: seats, Levels: []*flowcontrolv1.PriorityLevelConfiguration{exempt, l}, Schemas: []*flowcontrolv1.FlowSchema{
		flowing("exempt", "exempt", "masters", 1), flowing("all", l.Name, "*", 10),
	}})
}

func by(name string, groups ...string) Request {
	return Request{Attributes: authorizer.AttributesRecord{User: &user.DefaultInfo{Name: name, Groups: append(groups, "all")}, Verb: "get", Path: "/"}}
}

func wide(name string, seats int) Request {
	r := by(name)
	r.Seats = func(int) int { return seats }
	return r
}

func TestDivides(t *testing.T) {
	borrows := limited("borrows", 10, 0, 0, 0, 0)
	borrows.Spec.Limited.BorrowingLimitPercent = ptr.To[int32](50)
	shared := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "shared"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementExempt, Exempt: &flowcontrolv1.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: ptr.To[int32](10), LendablePercent: ptr.To[int32](50)}}}
	got := divide(100, []*flowcontrolv1.PriorityLevelConfiguration{exempt, limited("a", 20, 33, 0, 0, 0), borrows, shared})
	for name, want := range map[string]bounds{"exempt": {0, 0, 100}, "a": {33, 50, 150}, "borrows": {25, 25, 38}, "shared": {12, 25, 125}} {
		if got[name] != want {
			t.Errorf("%s: %+v, want %+v", name, got[name], want)
		}
	}
	if got := divide(100, []*flowcontrolv1.PriorityLevelConfiguration{exempt}); got["exempt"].nominal != 0 {
		t.Errorf("without shares: %+v", got)
	}
}

// TestLends has random levels ask for random numbers: all seats are given away, within bounds, in the same proportion.
func TestLends(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		seats, least := 0, 0.0
		var wants []want
		for range 1 + r.IntN(8) {
			nominal := 1 + r.IntN(100)
			lower := r.IntN(nominal + 1)
			w := want{bounds: bounds{lower, nominal, nominal + r.IntN(500)}, least: float64(lower + r.IntN(nominal-lower+1))}
			w.target = w.least + r.Float64()*100
			wants, seats, least = append(wants, w), seats+nominal, least+w.least
		}
		each, fraction := lend(seats, wants)
		sum, most := 0.0, 0.0
		for i, n := range each {
			w := wants[i]
			if n < w.least-0.001 || n > float64(w.upper)+0.001 {
				t.Errorf("seed %d: %v seats for %+v", seed, n, w)
			}
			if free := n > w.least+0.01 && n < float64(w.upper)-0.01; free && (n/w.target-fraction > 0.01 || fraction-n/w.target > 0.01) {
				t.Errorf("seed %d: %v seats of %v wanted, the fraction is %v", seed, n, w.target, fraction)
			}
			sum, most = sum+n, most+float64(w.upper)
		}
		if want := min(float64(seats), most); least <= float64(seats) && (sum < want-0.1 || sum > want+0.1) {
			t.Errorf("seed %d: %v seats are given of %d, where %v can be had", seed, sum, seats, most)
		}
	}
}

// TestHands: a hand has different cards, all cards are dealt, and two flows rarely have the same hand.
func TestHands(t *testing.T) {
	dealt := make([]int, 64)
	hands := make(map[string]int)
	for n := range 20_000 {
		cards := deal(nil, hash("schema", fmt.Sprint("user-", n)), 64, 6)
		if len(cards) != 6 || !slices.IsSorted(cards) || len(slices.Compact(slices.Clone(cards))) != 6 || cards[0] < 0 || cards[5] > 63 {
			t.Fatalf("hand %v", cards)
		}
		for _, c := range cards {
			dealt[c]++
		}
		hands[fmt.Sprint(cards)]++
	}
	if least, most := slices.Min(dealt), slices.Max(dealt); least < 1600 || most > 2200 {
		t.Errorf("a card is dealt %d to %d times, expected are 1875", least, most)
	}
	if len(hands) < 19_900 {
		t.Errorf("20,000 flows have %d hands", len(hands))
	}
	if all := deal(nil, 12345, 5, 5); !slices.Equal(all, []int{0, 1, 2, 3, 4}) {
		t.Errorf("a hand of the whole deck is %v", all)
	}
}

func TestExemptRequestsNeverWait(t *testing.T) {
	c := controller(1, limited("all", 1, 0, 0, 0, 0))
	if _, class, err := c.Take(t.Context(), by("user")); err != nil || class != (Class{"all", "all", "schema", "level"}) {
		t.Fatal(class, err)
	}
	for range 100 {
		if _, class, err := c.Take(t.Context(), by("root", "masters")); err != nil || class.Level != "exempt" {
			t.Fatal(class, err)
		}
	}
	if _, class, err := c.Take(t.Context(), by("user")); !errors.Is(err, ErrRejected) || class.Level != "all" {
		t.Errorf("a level without queues: %v, %v", class, err)
	}
}

func TestFullQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controller(2, limited("all", 1, 0, 1, 1, 3))
		var served []func()
		for n := range 2 {
			release, _, err := c.Take(t.Context(), by(fmt.Sprint("first-", n)))
			if err != nil {
				t.Fatal(err)
			}
			served = append(served, release)
		}
		results := make(chan error, 10)
		var wait sync.WaitGroup
		for range 5 {
			wait.Go(func() {
				release, _, err := c.Take(t.Context(), by("a"))
				results <- err
				if err == nil {
					release()
				}
			})
		}
		synctest.Wait()
		if len(results) != 2 {
			t.Errorf("%d were rejected, want the 2 that do not fit into the queue", len(results))
		}
		served[0]()
		served[0]() // a second time gives back nothing
		wait.Wait()
		if len(results) != 5 {
			t.Errorf("%d ended", len(results))
		}
		served[1]()
		if l := c.levels["all"]; l.inUse != 0 || l.waiting != 0 || l.wanted != 0 || len(l.running) != 0 {
			t.Errorf("after all: %+v", l)
		}
	})
}

func TestWaitingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controller(1, limited("all", 1, 0, 8, 2, 50))
		release, _, err := c.Take(t.Context(), by("a"))
		if err != nil {
			t.Fatal(err)
		}
		late, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		gone, leave := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		for _, w := range []struct {
			ctx      context.Context
			patience time.Duration
		}{{late, 0}, {gone, 0}, {t.Context(), time.Second}} {
			wait.Go(func() {
				r := by("a")
				r.Patience = w.patience
				if _, _, err := c.Take(w.ctx, r); !errors.Is(err, ErrRejected) {
					t.Errorf("who waited no longer got %v", err)
				}
			})
		}
		synctest.Wait()
		leave()
		wait.Wait()
		l := c.levels["all"]
		if l.counts.timedOut != 2 || l.counts.cancelled != 1 || l.waiting != 0 || l.wanted != 0 {
			t.Errorf("%+v, %d wait for %d seats", l.counts, l.waiting, l.wanted)
		}
		release()
	})
}

// TestFlowsShare has one user flood with requests and another send a few that take as long: both get the same number served.
func TestFlowsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controller(4, limited("all", 1, 0, 64, 6, 1000))
		ctx, end := context.WithCancel(t.Context())
		served := map[string]int{}
		var mu sync.Mutex
		var wait sync.WaitGroup
		send := func(name string, at, seats int) {
			for range at {
				wait.Go(func() {
					for ctx.Err() == nil {
						release, _, err := c.Take(ctx, wide(name, seats))
						if err != nil {
							return
						}
						time.Sleep(100 * time.Millisecond)
						mu.Lock()
						served[name] += seats
						mu.Unlock()
						release()
					}
				})
			}
		}
		send("flood", 300, 1)
		send("few", 8, 1)
		send("wide", 8, 2)
		time.Sleep(30 * time.Second) // 1,200 seats for a request
		end()
		wait.Wait()
		for name, n := range served {
			if n < 340 || n > 460 {
				t.Errorf("%s got %d of 1,200 seats, want a third: %v", name, n, served)
			}
		}
	})
}

// TestLongRequestsPay: a user whose requests take ten times as long gets the same time as others, and so a tenth of the number served.
func TestLongRequestsPay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controller(6, limited("all", 1, 0, 64, 6, 1000))
		ctx, end := context.WithCancel(t.Context())
		var mu sync.Mutex
		spent := map[string]time.Duration{}
		var wait sync.WaitGroup
		for name, took := range map[string]time.Duration{"long": time.Second, "short": 100 * time.Millisecond, "other": 100 * time.Millisecond} {
			for range 20 {
				wait.Go(func() {
					for ctx.Err() == nil {
						release, _, err := c.Take(ctx, by(name))
						if err != nil {
							return
						}
						time.Sleep(took)
						mu.Lock()
						spent[name] += took
						mu.Unlock()
						release()
					}
				})
			}
		}
		time.Sleep(100 * time.Second)
		end()
		wait.Wait()
		for name, took := range spent {
			if took < 160*time.Second || took > 240*time.Second {
				t.Errorf("those of %s took %v, want about 200s: %v", name, took, spent)
			}
		}
	})
}

// TestHalf: a flow has half of the seats, however many are free.
func TestHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controller(10, limited("all", 1, 0, 64, 6, 50))
		greedy, stop := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		for range 20 {
			wait.Go(func() {
				release, _, err := c.Take(greedy, by("greedy"))
				if err == nil {
					<-greedy.Done()
					release()
				}
			})
		}
		synctest.Wait()
		if l := c.levels["all"]; l.inUse != 5 || l.waiting != 15 {
			t.Errorf("one flow has %d of 10 seats, and %d requests that wait", l.inUse, l.waiting)
		}
		for range 5 { // its requests that wait are in nobody's way
			if _, _, err := c.Take(t.Context(), by(fmt.Sprint("other-", rand.IntN(100)))); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		wait.Wait()
	})
}

func TestWideRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controller(10, limited("all", 1, 0, 8, 8, 50))
		release, _, err := c.Take(t.Context(), wide("a", 7))
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan func(), 1)
		go func() {
			release, _, err := c.Take(t.Context(), wide("a", 25)) // more than there are
			if err != nil {
				t.Error(err)
			}
			got <- release
		}()
		synctest.Wait()
		if len(got) != 0 {
			t.Fatal("a wide request did not wait")
		}
		release()
		(<-got)()
		asked := 0
		r := by("a")
		r.Seats = func(most int) int { asked = most; return 0 }
		if release, _, err = c.Take(t.Context(), r); err != nil || asked != 2 || c.levels["all"].inUse != 1 {
			t.Errorf("asked for %d at most, took %d, %v", asked, c.levels["all"].inUse, err)
		}
		release()
	})
}

// TestReconfigures has requests wait while their level gets fewer queues, then more seats, then goes.
func TestReconfigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controller(1, limited("all", 1, 0, 64, 6, 50))
		release, _, err := c.Take(t.Context(), by("a"))
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan func(), 20)
		for n := range 20 {
			go func() {
				release, _, err := c.Take(t.Context(), by(fmt.Sprint("user-", n)))
				if err != nil {
					t.Error(err)
				}
				served <- release
			}()
		}
		synctest.Wait()
		schemas := []*flowcontrolv1.FlowSchema{flowing("all", "all", "*", 10), flowing("lost", "nowhere", "*", 5)}
		c.Configure(schemas, []*flowcontrolv1.PriorityLevelConfiguration{limited("all", 1, 0, 2, 1, 50)})
		if l := c.levels["all"]; l.waiting != 20 || l.dealt != 2 || c.levels["exempt"] == nil {
			t.Fatalf("%d wait, %d queues are dealt, levels are %v", l.waiting, l.dealt, c.levels)
		}
		old := c.levels["all"]
		c.Configure([]*flowcontrolv1.FlowSchema{flowing("all", "other", "*", 10)}, []*flowcontrolv1.PriorityLevelConfiguration{limited("other", 1, 0, 0, 0, 0)})
		if c.levels["all"] != old || !old.quiescing {
			t.Fatal("a level with requests is gone")
		}
		if _, class, err := c.Take(t.Context(), by("late")); err != nil || class.Level != "other" {
			t.Errorf("a request after the change is of %v, %v", class, err)
		}
		release()
		for range 20 {
			(<-served)()
		}
		c.lendSeats()
		if c.levels["all"] != nil {
			t.Error("a level without requests that is not configured is still there")
		}
		if len(old.queues) != 2 {
			t.Errorf("%d queues are left of 2", len(old.queues))
		}
	})
}

// TestBorrows has one level want all while the others are idle, and then one of them too.
func TestBorrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Seats: 100, Levels: []*flowcontrolv1.PriorityLevelConfiguration{exempt, limited("a", 1, 50, 8, 2, 500), limited("b", 1, 50, 8, 2, 500)},
			Schemas: []*flowcontrolv1.FlowSchema{flowing("a", "a", "a", 1), flowing("b", "b", "*", 2)}})
		ctx, end := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		flood := func(name, group string) {
			for range 200 {
				wait.Go(func() {
					for ctx.Err() == nil {
						release, _, err := c.Take(ctx, by(name, group))
						if err != nil {
							return
						}
						time.Sleep(time.Second)
						release()
					}
				})
			}
		}
		limits := func() [2]int { return [2]int{c.levels["a"].limit, c.levels["b"].limit} }
		flood("u", "a")
		time.Sleep(period)
		c.lendSeats()
		if got := limits(); got != [2]int{75, 25} {
			t.Errorf("limits are %v while only a is used, want 75 and 25", got)
		}
		flood("v", "other")
		time.Sleep(period)
		for range 3 {
			time.Sleep(period)
			c.lendSeats()
		}
		if got := limits(); got != [2]int{50, 50} {
			t.Errorf("limits are %v while both are used, want 50 and 50", got)
		}
		end()
		wait.Wait()
	})
}

func BenchmarkTake(b *testing.B) {
	c := controller(600, limited("all", 1, 0, 128, 6, 50))
	r := by("user")
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			release, _, err := c.Take(b.Context(), r)
			if err != nil {
				b.Error(err)
				return
			}
			release()
		}
	})
}
