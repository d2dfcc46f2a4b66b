package webhook

import (
	"context"
	"fmt"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/admission/matching"
	"github.com/skiff-k8s/skiff/apiserver/heavy"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/guard"
)

// validate asks the validating webhooks, all at once, and waits for all. Of those that refuse, the first one in their
// order is heard.
func (w *Webhooks) validate(ctx context.Context, a *admission.Attributes) error {
	if exempt(a) {
		return nil
	}
	hooks, err := w.validating.list(ctx, w)
	if err != nil || len(hooks) == 0 {
		return err
	}
	type call struct {
		hook *hook
		row  *resource.Resource
	}
	var calls []call
	equivalents := matching.Equivalents(a, w.config.Served())
	for _, h := range hooks {
		row, err := w.matches(ctx, h, a, equivalents)
		if err != nil {
			return err
		}
		if row != nil {
			calls = append(calls, call{h, row})
		}
	}
	if len(calls) > 0 && ctx.Err() != nil {
		return heavy.Timeout(ctx)
	}
	errs := make([]error, len(calls))
	var all guard.Group
	for i, c := range calls {
		judge := guard.Try("validating webhook", func() error { return w.judge(ctx, c.hook, a, c.row, i) })
		all.Go("validating webhook", func() { errs[i] = judge() }) // a panic refuses the write
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// judge asks one validating webhook.
func (w *Webhooks) judge(ctx context.Context, h *hook, a *admission.Attributes, row *resource.Resource, index int) error {
	began := time.Now()
	_, _, err := h.call(ctx, a, row, false)
	return w.settle(ctx, h, a, "validating", began, err, fmt.Sprintf("failed-open.validating.webhook.admission.k8s.io/round_0_index_%d", index))
}
