"""The built-in corpus: messages to and inside an invented clinic, some of which cannot wait.

Every person, number and address is made up: telephone numbers are from the range reserved for
fiction (555-0100 to 555-0199), addresses end in example.org (RFC 2606).
"""

import random

LABELS = ("routine", "urgent")

_SEED = 1917
_PER_TEMPLATE = 9


def clinic() -> list[tuple[str, int]]:
    """Return (message, index into ``LABELS``) pairs, shuffled: the same list at every call."""
    source = random.Random(_SEED)
    messages: dict[str, int] = {}
    for label, templates in enumerate((_ROUTINE, _URGENT)):
        for template in templates:
            wanted = len(messages) + _PER_TEMPLATE
            while len(messages) < wanted:  # a message drawn twice counts once
                messages[template.format(**_details(source))] = label
    pairs = list(messages.items())
    source.shuffle(pairs)
    return pairs


def _details(source: random.Random) -> dict[str, str]:
    first, last = source.choice(_FIRST), source.choice(_LAST)
    return {
        "name": f"{first} {last}",
        "mail": f"{first}.{last}@example.org".lower(),
        "phone": f"555-01{source.randrange(100):02d}",
        "doctor": source.choice(_LAST),
        "relative": source.choice(_RELATIVES),
        "date": f"{source.randint(1, 28)} {source.choice(_MONTHS)}",
        "time": f"{source.randint(7, 18)}:{source.randrange(0, 60, 5):02d}",
        "house": str(source.randint(2, 199)),
        "street": source.choice(_STREETS),
        "room": str(source.randint(20, 49)),
        "ref": f"{source.choice(('MC', 'RX', 'PT', 'LB'))}-{source.randint(10000, 99999)}",
        "drug": source.choice(_DRUGS),
        "test": source.choice(_TESTS),
        "symptom": source.choice(_SYMPTOMS),
    }


# Every template says something that its writer would not want read: a name, a number, an address.
_ROUTINE = (
    "Please book {name} for a {test} on {date}, any time before noon.",
    "Could you renew my {drug} prescription? My name is {name}, file {ref}.",
    "This is {name}; I would like to move my {date} appointment to the following week.",
    "Thank you for the reminder, {name} will come to see Dr. {doctor} on {date}.",
    "{name} has moved to {house} {street}; please update file {ref} before the next letter.",
    "Invoice {ref} was paid by {name} on {date}, kindly send a receipt to {mail}.",
    "When is the flu vaccine available again? You can reach {name} at {phone}.",
    "{name} reports that the {drug} works well and has no side effects so far.",
    "Room {room} needs fresh towels and gloves before {name} starts the {date} clinic.",
    "Dr. {doctor} confirmed the yearly check-up of {name} for {date} at {time}.",
    "We received your referral for {name}; the first visit is set for {date}.",
    "Is fasting required before the {test} that {name} has on {date} with Dr. {doctor}?",
    "Just a note that {name} prefers e-mail, so write to {mail} instead of calling.",
    "Kindly forward the {test} results of {name} to my insurer, policy {ref}, whenever convenient.",
    "For the records: {name} changed phone numbers and now answers at {phone}.",
    "Before my holiday on {date} I would like two extra packs of {drug}, {name}.",
    "The parking permit for {name} expires on {date}; the front desk has the renewal form.",
    "All values in the {test} of {name} were normal; repeat in one year.",
    "How do I register my cousin, {name}, as a new patient at the clinic?",
    "Staff training on the booking system takes place on {date} at {time}, ask {name}.",
    "Good morning, {name} here, asking for a copy of the {date} {test} report.",
    "It would suit {name} better to have the physiotherapy session at {time} on {date}.",
    "Dental cleaning for {name} is due again; suggest {date} and confirm at {phone}.",
    "Glasses for {name} are ready and can be collected from {date} onwards, order {ref}.",
    "Can someone explain the charge of {house} dollars on statement {ref}? Regards, {name}.",
    "Monthly supply order {ref} of {drug} arrived complete and was shelved by {name}.",
    "No rush at all, but {name} would appreciate a call about diet advice at {phone}.",
    "Yesterday's visit went smoothly, and {name} sends warm thanks to Dr. {doctor}.",
)
_URGENT = (
    "{name} collapsed in waiting room {room} at {time} and is not responding, come now.",
    "Help, {relative} swallowed a whole bottle of {drug}; call me back at {phone}.",
    "Please send an ambulance to {house} {street}, {name} has {symptom}.",
    "I have had {symptom} since {time} and it is getting worse, {name}, {phone}.",
    "Critical potassium result for {name}: page Dr. {doctor} immediately, reference {ref}.",
    "Since the dose of {drug} at {time}, {name} has hives and cannot breathe properly.",
    "{name} here, my wife's waters broke at {time} and she is bleeding heavily.",
    "Emergency in room {room}: {name} is having a seizure, bring the crash cart.",
    "Blood is soaking through the bandage of {name} after surgery on {date}, what now?",
    "Someone must see my neighbour, {name}, today, the fever is above 40 and rising.",
    "Wrong patient was given {drug}: stop the infusion for {name}, file {ref}, at once.",
    "The baby of {name} is turning blue and barely breathing at {house} {street}.",
    "Stroke suspected: {name} cannot lift the left arm and slurs words since {time}.",
    "Twice today {relative} has fainted, and now there is {symptom}; ring {phone}.",
    "Dr. {doctor}, your patient {name} shows {symptom} and the pressure is dropping fast.",
    "Glucose of my partner {name} fell to {room} and I cannot wake them, {phone}.",
    "Recall alert: stop handing out {drug}, batch {ref}, {name} is in intensive care.",
    "Anaphylaxis after the vaccine: {name} needs adrenaline, second dose given at {time}.",
    "We cannot wait until {date}; {name} has {symptom} and is very pale.",
    "Urgent: {name} took {drug} twice by mistake and feels faint, phone {phone}.",
    "After a fall on the stairs {relative} cannot move both legs, hurry to {house} {street}.",
    "Severe burns on both hands, {name}, {room} years old, arriving in ten minutes.",
    "Nobody answers the emergency line! {name} has {symptom}, reach us at {phone}.",
    "Oxygen in bed {room} dropped to eighty percent, {name} needs a doctor now.",
    "Within an hour the rash of {name} spread to the throat, with {symptom}.",
    "Ambulance crew bringing {name}, suspected heart attack, arrival {time}, alert Dr. {doctor}.",
    "Suddenly {name} lost sight in one eye, we are driving to you, {phone}.",
    "Pharmacy error on {ref}: ten times the dose of {drug} went to {name}.",
)

_FIRST = (
    "Adela Amos Anneke Basil Bettina Bruno Carla Cedric Chidi Dagny Darius Delphine Edda Emeka "
    "Esme Farid Fiona Gareth Greta Hamid Hedda Ingrid Ivo Jasper Joelle Kenji Klara Lionel Lucia "
    "Magnus Mireille Nadia Nestor Odile Oscar Petra Priya Quentin Ramona Rufus Sabine Samir "
    "Tamsin Tobias Ursula Viktor Wanda Yusuf Zelda Zoran"
).split()
_LAST = (
    "Abernathy Adeyemi Barlow Bianchi Birkett Castellan Cheung Corbin Dahlgren Delacroix Drummond "
    "Eastwick Ekstrom Fairbank Falkner Ferreira Galloway Grimaldi Haverford Hendry Ibarra Ivanov "
    "Jankowski Juniper Kaminski Kessler Kobayashi Larkspur Lindqvist Lockhart Marchetti Mbeki "
    "Merriweather Nakagawa Norwood Okafor Oyelaran Pemberton Pettigrew Quigley Ravenhill Rosales "
    "Sandoval Stavros Thackeray Tremaine Underhill Vasquez Whitlock Zielinski"
).split()
_STREETS = (
    "Alder Lane, Birch Street, Canal Road, Dovecote Close, Elm Terrace, Foundry Row, "
    "Glebe Avenue, Harbour View, Ivy Court, Juniper Drive, Kiln Street, Larch Crescent"
).split(", ")
_MONTHS = (
    "January February March April May June July August September October November December"
).split()
_DRUGS = (
    "metformin 500 mg, lisinopril 10 mg, amoxicillin 250 mg, atorvastatin 20 mg, "
    "sertraline 50 mg, warfarin 5 mg, levothyroxine 75 mcg, omeprazole 20 mg, "
    "ibuprofen 400 mg, prednisone 10 mg, citalopram 20 mg, bisoprolol 5 mg"
).split(", ")
_TESTS = (
    "blood count, cholesterol panel, hearing test, chest X-ray, thyroid scan, "
    "skin allergy test, bone density scan, kidney ultrasound, vitamin D check, vision test"
).split(", ")
_SYMPTOMS = (
    "crushing chest pain, a badly swollen tongue, sudden numbness on one side, "
    "severe trouble breathing, uncontrolled bleeding, a stiff neck and confusion, "
    "violent vomiting with blood, unbearable pain in the belly, blue lips and cold hands"
).split(", ")
_RELATIVES = (
    "my daughter, my son, my mother, my father, my wife, my husband, "
    "my sister, my brother, my grandmother, my grandfather, my aunt, my uncle"
).split(", ")
