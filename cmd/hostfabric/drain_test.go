package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

// drainingAgent tells of the steps it was given.
type drainingAgent struct {
	apiv1.UnimplementedHostfabricServer
	steps []*apiv1.DrainProgress
	err   error // after them
	asked proto.Message
}

func (a *drainingAgent) Drain(r *apiv1.DrainRequest, stream grpc.ServerStreamingServer[apiv1.DrainProgress]) error {
	a.asked = r
	return a.tell(stream)
}

func (a *drainingAgent) Undrain(r *apiv1.UndrainRequest, stream grpc.ServerStreamingServer[apiv1.DrainProgress]) error {
	a.asked = r
	return a.tell(stream)
}

func (a *drainingAgent) tell(stream grpc.ServerStreamingServer[apiv1.DrainProgress]) error {
	var errs []error
	for _, s := range a.steps {
		errs = append(errs, stream.Send(s))
	}
	return errors.Join(append(errs, a.err)...)
}

func TestDrainCommands(t *testing.T) {
	for _, tc := range []struct {
		name  string
		args  []string
		agent drainingAgent
		asked proto.Message
		out   string
		err   string
	}{
		{
			name: "drain", args: []string{"drain", "--reason", "memory", "--deadline", "5s", "--until-boot"},
			asked: &apiv1.DrainRequest{Reason: "memory", Deadline: durationpb.New(5 * time.Second), UntilBoot: true},
			agent: drainingAgent{steps: []*apiv1.DrainProgress{
				{Stage: "draining", Step: "waiting for traffic to leave", Endpoints: 3, BusyEndpoints: 1, PacketsPerSecond: 999.6},
				{Stage: "draining", Step: "waiting for traffic to leave", Endpoints: 3, BusyEndpoints: 1, PacketsPerSecond: 1000.4},
				{Stage: "draining", Step: "withdrawing the blocks", Endpoints: 1, Error: "table is full"},
				{Stage: "drained", Reason: "memory", Endpoints: 1, Done: true},
			}},
			out: `draining: waiting for traffic to leave, 1 of 3 endpoints busy, 1000 packets/s
draining: withdrawing the blocks, 0 of 1 endpoint busy, 0 packets/s: trying again: table is full
drained: memory (no traffic was left)
`,
		},
		{
			name: "drain with traffic left", args: []string{"drain"}, asked: &apiv1.DrainRequest{Deadline: durationpb.New(time.Minute)},
			agent: drainingAgent{steps: []*apiv1.DrainProgress{{Stage: "drained", Reason: "host drained", Endpoints: 2, BusyEndpoints: 2, PacketsPerSecond: 7, Done: true}}},
			out:   "drained: host drained (the deadline passed with 2 of 2 endpoints busy, 7 packets/s)\n",
		},
		{
			name: "drain of nobody", args: []string{"drain", "--deadline", "0s"}, asked: &apiv1.DrainRequest{Deadline: durationpb.New(0)},
			agent: drainingAgent{steps: []*apiv1.DrainProgress{{Stage: "drained", Reason: "r", Done: true}}},
			out:   "drained: r (no endpoint was left)\n",
		},
		{
			name: "drain refused", args: []string{"drain", "--reason", "a\nb"}, asked: &apiv1.DrainRequest{Reason: "a\nb", Deadline: durationpb.New(time.Minute)},
			agent: drainingAgent{err: status.Error(codes.InvalidArgument, "reason: bad")}, err: "reason: bad",
		},
		{
			name: "agent that breaks off", args: []string{"undrain"}, asked: &apiv1.UndrainRequest{}, err: "without a word",
		},
		{
			name: "undrain", args: []string{"undrain"}, asked: &apiv1.UndrainRequest{},
			agent: drainingAgent{steps: []*apiv1.DrainProgress{{Stage: "undraining", Step: "waiting for the sessions"}, {Done: true}}},
			out:   "undraining: waiting for the sessions\nserving\n",
		},
		{
			name: "undrain with a router gone", args: []string{"undrain"}, asked: &apiv1.UndrainRequest{},
			agent: drainingAgent{steps: []*apiv1.DrainProgress{{Done: true, PeersDown: []string{"10.0.1.0", "fe80::1%eth0"}}}},
			out:   "serving, but these peers are not established: 10.0.1.0, fe80::1%eth0\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, err := execute(t, append(tc.args, "--socket", serveAPI(t, &tc.agent))...)
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			if diff := cmp.Diff(tc.out, out); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.asked, tc.agent.asked, protocmp.Transform()); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}
