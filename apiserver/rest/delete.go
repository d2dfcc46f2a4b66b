package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
	"github.com/skiff-k8s/skiff/apiserver/tracing"
)

// delete serves DELETE of one object.
func (h *Handler) delete(w http.ResponseWriter, r *http.Request, t *target) error {
	ctx, cancel := deadline(r)
	defer cancel()
	out, err := codec.Negotiate(r, t.offer())
	if err != nil {
		return err
	}
	options, err := deleteOptions(r)
	if err != nil {
		return err
	}
	warnOrphans(ctx, t.resource.Stored, options)
	wr := newWrite(r, t, options, "", options.DryRun)
	item, gone, err := h.deleteObject(ctx, wr, options)
	if ignore := options.IgnoreStoreReadErrorWithClusterBreakingPotential; apierrors.IsStoreReadError(err) && ignore != nil && *ignore {
		return h.deleteUnreadable(ctx, w, r, wr)
	}
	if err != nil {
		return err
	}
	code := http.StatusOK
	if orphan := options.OrphanDependents; !gone && orphan != nil && !*orphan {
		code = http.StatusAccepted
	}
	if gone && !t.resource.Stored.AnswersDeleted {
		return answerStatus(w, r, code, deleted(t.resource, itemObject(item)))
	}
	return h.answer(w, r, t, out, code, item)
}

// warnOrphans tells who says nothing about dependents that they stay.
func warnOrphans(ctx context.Context, r *resource.Resource, options *metav1.DeleteOptions) {
	if r.OrphanWarning != "" && options.PropagationPolicy == nil && options.OrphanDependents == nil {
		request.Warn(ctx, r.OrphanWarning)
	}
}

// deleteUnreadable removes an object that cannot be decoded, for who may do
// so. Nothing is known of it: not what holds it, nor what it has reserved
// (KEP-3926). The option that asks for it is ignored where the object can be read.
func (h *Handler) deleteUnreadable(ctx context.Context, w http.ResponseWriter, r *http.Request, wr *write) error {
	if err := h.may(ctx, wr, "unsafe-delete-ignore-read-errors"); err != nil {
		return err
	}
	if err := h.Store.DeleteUnreadable(ctx, wr.resource, wr.objectNamespace(), wr.name); err != nil {
		return fromStore(err, wr.resource, wr.name)
	}
	unknown := wr.empty()
	unknown.SetName(wr.name)
	return answerStatus(w, r, http.StatusOK, deleted(wr.resource, unknown))
}

// deleted is the answer that says what was deleted.
func deleted(r *resource.Resource, obj resource.Object) *metav1.Status {
	return &metav1.Status{TypeMeta: statusKind, Status: metav1.StatusSuccess, Details: &metav1.StatusDetails{
		Name: obj.GetName(), Group: r.Group, Kind: r.Plural, UID: obj.GetUID(), // Kind holds the resource, as ever
	}}
}

// answerStatus answers with a Status that is no error.
func answerStatus(w http.ResponseWriter, r *http.Request, code int, status *metav1.Status) error {
	out, err := codec.Negotiate(r, codec.Offer{Protobuf: true, Table: true, Partial: true})
	if err != nil {
		return err
	}
	return answer{code: code, out: out, status: status, encode: func(out codec.Output) (codec.Body, error) { return out.Encode(status) }}.send(w, r)
}

func itemObject(i codec.Item) resource.Object {
	return i.(interface{ Object() resource.Object }).Object()
}

// deleteObject deletes an object, or begins to where finalizers or a grace
// period hold it. It returns the object as it is then, and whether it is gone.
// Once it has marked the object as being deleted, it does not mind who removes it.
func (h *Handler) deleteObject(ctx context.Context, w *write, options *metav1.DeleteOptions) (item codec.Item, gone bool, err error) {
	r := w.stored()
	var marked *store.Item
	for {
		current, err := h.Store.Get(ctx, r, w.objectNamespace(), w.name)
		if marked != nil && replaced(marked, current, err) {
			return marked, true, nil
		}
		if err != nil {
			return nil, false, fromStore(err, w.resource, w.name)
		}
		item, gone, err := h.tryDelete(ctx, w, current, options.DeepCopy(), &marked)
		if errors.Is(err, store.ErrConflict) && ctx.Err() == nil {
			continue
		}
		return item, gone, fromStore(err, w.resource, w.name)
	}
}

// replaced reports whether an object is not there any more, by what a later Get has
// returned.
func replaced(was, now *store.Item, err error) bool {
	return errors.Is(err, store.ErrNotFound) || err == nil && now.Object().GetUID() != was.Object().GetUID()
}

// tryDelete does the same if nobody changes the object meanwhile, else store.ErrConflict.
// It tells of an object that it has marked and not removed.
func (h *Handler) tryDelete(ctx context.Context, w *write, current *store.Item, options *metav1.DeleteOptions, marked **store.Item) (codec.Item, bool, error) {
	r := w.stored()
	old := current.Object()
	if err := preconditions(r, old, options); err != nil {
		return nil, false, err
	}
	if r.IsNamespace() || r.Finalizer != "" {
		pin(old, options)
	}
	next, step := planDelete(r, old, options, time.Now())
	if step == alreadyDeleting {
		// An object that is gone in due time answers as if it were gone, but
		// for kinds that answer with it anyway.
		return current, !r.AnswersDeleted, nil
	}
	settled := *w
	settled.options = options // with what the deletion made of them
	w = &settled
	if err := h.mutate(ctx, w, "delete", nil, old); err != nil {
		return nil, false, err
	}
	if err := h.admit(ctx, w, "delete", nil, old); err != nil {
		return nil, false, err
	}
	if step == deleteNow {
		item, err := h.remove(ctx, w, current)
		return item, true, err
	}
	item, err := h.Store.Update(ctx, r, w.objectNamespace(), w.name, w.dryRun, func(now *store.Item) (resource.Object, error) {
		if now.Revision() != current.Revision() {
			return nil, store.ErrConflict
		}
		return next, nil
	})
	if err != nil || step == beginDelete {
		return item, false, err
	}
	if w.dryRun { // the object is not marked, and a deletion would show it so
		return item, true, nil
	}
	*marked = item
	last, err := h.remove(ctx, w, item)
	return last, true, err
}

// remove deletes current and gives back what it had reserved.
func (h *Handler) remove(ctx context.Context, w *write, current *store.Item) (codec.Item, error) {
	release, err := w.stored().Reserve(ctx, nil, current.Object(), w.dryRun)
	if err != nil {
		return nil, err
	}
	ctx, end := tracing.Start(ctx, "Delete from the store")
	item, err := h.Store.Delete(ctx, w.stored(), current, w.dryRun)
	end()
	release(err == nil && !w.dryRun)
	if err != nil {
		return nil, err
	}
	return item, nil
}

// pin makes options mean the object that is there, of whatever name others come to be.
func pin(old resource.Object, options *metav1.DeleteOptions) {
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	if options.Preconditions.UID == nil {
		options.Preconditions.UID = ptr.To(old.GetUID())
	}
}

// preconditions checks that old is the object that is to be deleted.
func preconditions(r *resource.Resource, old resource.Object, options *metav1.DeleteOptions) error {
	p := options.Preconditions
	if p == nil {
		return nil
	}
	if r.IsNamespace() || r.Finalizer != "" {
		return finalizedPreconditions(r, old, p)
	}
	conflict := func(format string, args ...any) error {
		return apierrors.NewConflict(schema.GroupResource{Group: r.Group, Resource: r.Kind}, old.GetName(), fmt.Errorf(format, args...))
	}
	if p.UID != nil && *p.UID != old.GetUID() {
		return conflict("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, old.GetUID())
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != old.GetResourceVersion() {
		return conflict("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, old.GetResourceVersion())
	}
	return nil
}

// finalizedPreconditions says the same of kinds that are always finalized in
// other words, which kube-apiserver has for them.
func finalizedPreconditions(r *resource.Resource, old resource.Object, p *metav1.Preconditions) error {
	conflict := func(what string, want, have any) error {
		return apierrors.NewConflict(r.GR(), old.GetName(),
			fmt.Errorf("Precondition failed: %s in precondition: %v, %[1]s in object meta: %[3]v", what, want, have))
	}
	if p.UID != nil && *p.UID != old.GetUID() {
		return conflict("UID", *p.UID, old.GetUID())
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != old.GetResourceVersion() {
		return conflict("ResourceVersion", *p.ResourceVersion, old.GetResourceVersion())
	}
	return nil
}

// deleteStep is what a DELETE does to an object.
type deleteStep int

const (
	deleteNow       deleteStep = iota // remove it
	markAndDelete                     // store that it is being deleted, then remove it
	beginDelete                       // store that it is being deleted
	alreadyDeleting                   // nothing: its time runs
)

// planDelete decides what a DELETE with options does to old. next is what to
// store for beginDelete and markAndDelete. options may be changed.
func planDelete(r *resource.Resource, old resource.Object, options *metav1.DeleteOptions, now time.Time) (next resource.Object, step deleteStep) {
	next = old.DeepCopyObject().(resource.Object)
	if r.Finalizer != "" && old.GetDeletionTimestamp() == nil {
		beginFinalizing(r, next, now)
		return next, beginDelete
	}
	grace, end, running := gracePeriod(r, next, options, now)
	if running {
		return nil, alreadyDeleting
	}
	next.SetFinalizers(collectorFinalizers(r, next, options))
	held := len(next.GetFinalizers()) > 0 || r.Held(next)
	step = beginDelete
	switch {
	case grace > 0:
	case held:
		grace, end = 0, now
	case r.Graceful && graceLeft(old):
		// Watchers of kinds with grace periods always see an object marked
		// before it goes.
		step, end = markAndDelete, now
	default:
		return nil, deleteNow
	}
	began := old.GetDeletionTimestamp() == nil
	if began && next.GetGeneration() > 0 {
		next.SetGeneration(next.GetGeneration() + 1)
	}
	at := metav1.NewTime(end.Truncate(time.Second))
	if was := next.GetDeletionTimestamp(); was == nil || was.After(at.Time) {
		next.SetDeletionTimestamp(&at)
	}
	if !r.Held(next) { // namespaces have no period, not even an empty one
		next.SetDeletionGracePeriodSeconds(&grace)
	}
	r.Terminate(next)
	return next, step
}

// beginFinalizing marks the object of a kind with a finalizer of its own.
func beginFinalizing(r *resource.Resource, obj resource.Object, now time.Time) {
	obj.SetDeletionTimestamp(&metav1.Time{Time: now.Truncate(time.Second)})
	if !slices.Contains(obj.GetFinalizers(), r.Finalizer) {
		obj.SetFinalizers(append(slices.Clone(obj.GetFinalizers()), r.Finalizer))
	}
	r.Terminate(obj)
}

// graceLeft reports whether obj has not been told yet that its time is over.
func graceLeft(obj resource.Object) bool {
	left := obj.GetDeletionGracePeriodSeconds()
	return obj.GetDeletionTimestamp() == nil || left != nil && *left > 0
}

// gracePeriod is how many seconds the object has, and when they are over.
// running means that it is being deleted already and does not have to go any
// sooner.
func gracePeriod(r *resource.Resource, obj resource.Object, options *metav1.DeleteOptions, now time.Time) (seconds int64, end time.Time, running bool) {
	after := func(start time.Time, seconds int64) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	if g := options.GracePeriodSeconds; g != nil && *g < 0 {
		one := int64(1)
		options.GracePeriodSeconds = &one
	}
	if !r.Graceful {
		return 0, now, false
	}
	deletion, left := obj.GetDeletionTimestamp(), obj.GetDeletionGracePeriodSeconds()
	if deletion == nil {
		seconds = r.Grace(obj, options)
		options.GracePeriodSeconds = &seconds
		return seconds, after(now, seconds), false
	}
	if left == nil || *left == 0 {
		return 0, now, false
	}
	if options.GracePeriodSeconds == nil || *options.GracePeriodSeconds >= *left {
		return 0, now, true
	}
	// The period can only be made shorter, counted from when deletion began.
	seconds = *options.GracePeriodSeconds
	end = after(after(deletion.Time, -*left), seconds)
	if end.Before(now) {
		return min(seconds, 1), now, false // who deletes it gracefully must still do the last step
	}
	return seconds, end, false
}

// collectorFinalizers are the finalizers of obj with those by which the
// garbage collector knows what to do with its dependents.
func collectorFinalizers(r *resource.Resource, obj resource.Object, options *metav1.DeleteOptions) []string {
	had := obj.GetFinalizers()
	finalizers := slices.DeleteFunc(slices.Clone(had), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	switch propagation(r, had, options) {
	case metav1.DeletePropagationOrphan:
		finalizers = append(finalizers, metav1.FinalizerOrphanDependents)
	case metav1.DeletePropagationForeground:
		finalizers = append(finalizers, metav1.FinalizerDeleteDependents)
	}
	if len(finalizers) == len(had) && !slices.ContainsFunc(finalizers, func(f string) bool { return !slices.Contains(had, f) }) {
		return had
	}
	return finalizers
}

// propagation is what happens to the dependents: what the options say, else
// what the object says, else what the kind says.
func propagation(r *resource.Resource, finalizers []string, options *metav1.DeleteOptions) metav1.DeletionPropagation {
	switch {
	case options.OrphanDependents != nil && *options.OrphanDependents:
		return metav1.DeletePropagationOrphan
	case options.OrphanDependents != nil:
		return metav1.DeletePropagationBackground
	case options.PropagationPolicy != nil:
		return *options.PropagationPolicy
	}
	for _, f := range finalizers {
		switch f {
		case metav1.FinalizerOrphanDependents:
			return metav1.DeletePropagationOrphan
		case metav1.FinalizerDeleteDependents:
			return metav1.DeletePropagationForeground
		}
	}
	if r.OrphanByDefault {
		return metav1.DeletePropagationOrphan
	}
	return metav1.DeletePropagationBackground
}
